"""The miniworld's model directory with another chat template: one that writes today's date, as several families do."""

from pathlib import Path

from mralign.config import resolve_path

MINIWORLD = Path(resolve_path("pkg://mralign.miniworld/data/model"))
DATED = """{%- if not date_string is defined %}{%- if strftime_now is defined -%}
{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}Today Date: {{ date_string }} {{ messages[-1].content }}{% if enable_thinking %} <think>{% endif %}"""


def copy_of(source, directory, *, template=None):
    """The files of the miniworld's model, with another template."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            (directory / path.name).write_bytes(path.read_bytes())
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory
