"""The JSON Schema files of the package, by which tests check what commands print.

check("verify", plain)      raises jsonschema.ValidationError, also for a key that the schema does not name
"""

import importlib.resources
import json
from typing import Any

import jsonschema

SCHEMAS = {
    path.name.removesuffix(".json"): json.loads(path.read_text(encoding="utf-8"))
    for path in (importlib.resources.files("capture") / "report" / "schemas").iterdir()
}


def strict(schema: object) -> Any:
    """Return a schema that takes no keys but those that it names: in an output, each is documented."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    stricter = {key: strict(value) for key, value in schema.items()}
    return {"additionalProperties": False} | stricter if "properties" in schema else stricter


def check_schema(name: str, plain: object) -> None:
    """Assert that an output matches its schema, which a validator takes without any other file."""
    jsonschema.Draft202012Validator(strict(SCHEMAS[name])).validate(plain)
