// Greets, and remembers how often.

import { write as log } from "mcp-zero:plugin/log@0.1.0";
import { get, set } from "mcp-zero:plugin/state@0.1.0";

// Under which key of the agent's state the count is.
const GREETED = "greeted";
const COUNT = { type: "integer", minimum: 0 };

export function describe() {
  return [
    {
      name: "greet",
      description: "Greets somebody, and counts it",
      effect: "mutating",
      idempotent: false,
      inputSchema: JSON.stringify({
        type: "object",
        properties: { name: { type: "string", minLength: 1, maxLength: 100 } },
        required: ["name"],
        additionalProperties: false,
      }),
      outputSchema: JSON.stringify({
        type: "object",
        properties: { text: { type: "string" }, greeted: COUNT },
        required: ["text", "greeted"],
      }),
    },
    {
      name: "greeted",
      description: "How often it has greeted",
      effect: "read-only",
      idempotent: true,
      inputSchema: JSON.stringify({ type: "object", additionalProperties: false }),
      outputSchema: JSON.stringify({ type: "object", properties: { greeted: COUNT }, required: ["greeted"] }),
    },
  ];
}

export function call(method, params) {
  switch (method) {
    case "greet":
      return JSON.stringify(greet(JSON.parse(params)));
    case "greeted":
      return JSON.stringify({ greeted: count() });
    default:
      throw { tag: "unknown-method", val: method };
  }
}

function greet({ name }) {
  if (name.trim() === "") throw { tag: "invalid-params", val: "a name is more than blanks" };
  const greeted = count() + 1;
  set(GREETED, bytes(greeted));
  log("info", `greeting number ${greeted}`);
  return { text: `Hello, ${name}!`, greeted };
}

function count() {
  const stored = get(GREETED);
  return stored ? Number(String.fromCharCode(...stored)) : 0;
}

/** Digits as bytes. */
function bytes(number) {
  return Uint8Array.from(String(number), (char) => char.charCodeAt(0));
}
