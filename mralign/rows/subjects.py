"""Which model is evaluated, and in which way it is asked; how stages and tables name both.

A subject and a way make the name of a method in tables (`base_think_on`, `kto_ret`) and, with the name of a stage, its
name in the run directory (`responses_base`). Both spellings are made and read here and nowhere else.
"""

from __future__ import annotations

from enum import StrEnum

_SNIPPETS = "_ret"  # ends the name of a way, or of a method, that is shown snippets


class Subject(StrEnum):
    """The model as it is, or what training made of it."""

    BASE = "base"
    TRAINED = "trained"

    def stage(self, name: str) -> str:
        """The name of this subject's stage of that kind: responses_base or responses."""
        return f"{name}_base" if self is Subject.BASE else name

    def method(self, way: Way, *, name: str) -> str:
        """The name in tables of this subject, called `name`, asked in that way.

        The base says its way (base_think_on); the trained model is plainly kto, or kto_ret, when it thinks.
        """
        if self is Subject.BASE or way.plain is not Way.THINK_ON:
            return f"{name}_{way}"
        return f"{name}{_SNIPPETS}" if way.retrieved else name


class Way(StrEnum):
    """How a model is asked; the values are those of `evaluation.methods`."""

    THINK_OFF = "think_off"
    THINK_ON = "think_on"
    SELF_REFINE = "self_refine"
    THINK_OFF_RET = "think_off_ret"
    THINK_ON_RET = "think_on_ret"

    @property
    def retrieved(self) -> bool:
        """Whether the prompt holds snippets that were searched for."""
        return self.endswith(_SNIPPETS)

    @property
    def plain(self) -> Way:
        """The same way without snippets."""
        return Way(self.removesuffix(_SNIPPETS))

    @property
    def thinks(self) -> bool:
        """Whether the model is asked to think."""
        return self.plain is not Way.THINK_OFF

    @property
    def mode(self) -> str:
        """off | on | refined: which of the answers to a question count."""
        return {Way.THINK_OFF: "off", Way.THINK_ON: "on", Way.SELF_REFINE: "refined"}[self.plain]


def way_of(method: str) -> Way:
    """The way in which a method of a table is asked, by its name: a trained model that says no way thinks."""
    said = [way for way in Way if method.endswith(f"_{way}")]
    if said:
        return said[0]
    return Way.THINK_ON_RET if method.endswith(_SNIPPETS) else Way.THINK_ON
