"""The one configuration of a run: a frozen pydantic model with a section per room.

Values enter as defaults, then a preset's YAML, then `section.field=value` overrides from the command line; a checked
`RunConfig` leaves. Unknown keys and wrong types are errors that name the key. Nothing heavy is imported here, so that
a wrong configuration ends a run before any engine starts.
"""

from mralign.config.data import Candidates, ImportFields, Match, MatchMode, Questions, Rollouts, Source
from mralign.config.evaluation import Evaluation, LongFact, Retrieval, Search, SelfRefine
from mralign.config.labelling import Annotation, Annotator, Discovery, Embedding
from mralign.config.learning import Examples, Lora, Training, Transitions, Weights
from mralign.config.loading import load, parse, resolve_path, to_yaml
from mralign.config.models import Decoding, Engine, Http, Model, ThinkMode
from mralign.config.named_formats import CODED_FORMATS, FORMATS, NAMED_FORMATS, PLAIN_FORMATS
from mralign.config.run import Run, RunConfig
from mralign.config.section import Section, counted, named

__all__ = [
    "CODED_FORMATS",
    "FORMATS",
    "NAMED_FORMATS",
    "PLAIN_FORMATS",
    "Annotation",
    "Annotator",
    "Candidates",
    "Decoding",
    "Discovery",
    "Embedding",
    "Engine",
    "Evaluation",
    "Examples",
    "Http",
    "ImportFields",
    "LongFact",
    "Lora",
    "Match",
    "MatchMode",
    "Model",
    "Questions",
    "Retrieval",
    "Rollouts",
    "Run",
    "RunConfig",
    "Search",
    "Section",
    "SelfRefine",
    "Source",
    "ThinkMode",
    "Training",
    "Transitions",
    "Weights",
    "counted",
    "load",
    "named",
    "parse",
    "resolve_path",
    "to_yaml",
]
