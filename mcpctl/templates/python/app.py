"""Greets, and remembers how often.

`componentize-py -d wit -w plugin bindings .` writes the modules imported here, for your editor.
"""

import json

from componentize_py_types import Err
from wit_world import WitWorld as World
from wit_world.imports import log, state
from wit_world.imports.types import Effect, Error_InvalidParams, Error_UnknownMethod, Method

# Under which key of the agent's state the count is.
GREETED = "greeted"
COUNT = {"type": "integer", "minimum": 0}


class WitWorld(World):
    def describe(self) -> list[Method]:
        greet = Method(
            name="greet",
            description="Greets somebody, and counts it",
            effect=Effect.MUTATING,
            idempotent=False,
            input_schema=json.dumps(
                {
                    "type": "object",
                    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 100}},
                    "required": ["name"],
                    "additionalProperties": False,
                }
            ),
            output_schema=json.dumps(
                {
                    "type": "object",
                    "properties": {"text": {"type": "string"}, "greeted": COUNT},
                    "required": ["text", "greeted"],
                }
            ),
        )
        greeted = Method(
            name="greeted",
            description="How often it has greeted",
            effect=Effect.READ_ONLY,
            idempotent=True,
            input_schema=json.dumps({"type": "object", "additionalProperties": False}),
            output_schema=json.dumps(
                {"type": "object", "properties": {"greeted": COUNT}, "required": ["greeted"]}
            ),
        )
        return [greet, greeted]

    def call(self, method: str, params: str) -> str:
        match method:
            case "greet":
                return json.dumps(greet(json.loads(params)["name"]))
            case "greeted":
                return json.dumps({"greeted": count()})
            case _:
                raise Err(Error_UnknownMethod(method))


def greet(name: str) -> dict:
    if not name.strip():
        raise Err(Error_InvalidParams("a name is more than blanks"))
    greeted = count() + 1
    state.set(GREETED, str(greeted).encode())
    log.write(log.Level.INFO, f"greeting number {greeted}")
    return {"text": f"Hello, {name}!", "greeted": greeted}


def count() -> int:
    stored = state.get(GREETED)
    return int(stored) if stored else 0
