"""The configurations that come with the package, as YAML files: presets of a run, `suites/` of benchmarks, `tables/` of
several trainings, `methods/` that are compared, `studies/` of small worlds."""

from pathlib import Path

PRESETS = Path(__file__).parent
SUITES = PRESETS / "suites"
TABLES = PRESETS / "tables"
METHODS = PRESETS / "methods"
STUDIES = PRESETS / "studies"
