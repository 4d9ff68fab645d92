// Greets, and remembers how often.

#include <stdio.h>

#include "mcp_zero.h"

// Under which key of the agent's state the count is.
#define GREETED "greeted"

#define COUNT "{\"type\":\"integer\",\"minimum\":0}"

// The value of "name" in {"name": "..."}, still as JSON has it: between its quotes, with its escapes.
// The host has checked that the parameters are JSON and fit the schema; a plugin that reads more wants a JSON library.
static mcp_text name_of(mcp_text params) {
  const char *end = params.ptr + params.len, *at = memchr(params.ptr, ':', params.len);
  const char *from = memchr(at, '"', (size_t)(end - at));
  const char *to = ++from;
  while (*to != '"') to += *to == '\\' ? 2 : 1;
  return (mcp_text){ from, (size_t)(to - from) };
}

static unsigned long count(void) {
  mcp_text stored;
  char digits[24] = "";
  if (mcp_state_get(mcp_text_of(GREETED), &stored) && stored.len < sizeof digits) memcpy(digits, stored.ptr, stored.len);
  return strtoul(digits, 0, 10);
}

static mcp_result greet(mcp_text params) {
  mcp_text name = name_of(params), why;
  char digits[24], line[64];
  snprintf(digits, sizeof digits, "%lu", count() + 1);
  if (!mcp_state_set(mcp_text_of(GREETED), mcp_text_of(digits), &why)) return mcp_fail(MCP_FAILED, why);
  snprintf(line, sizeof line, "greeting number %s", digits);
  mcp_log(MCP_INFO, mcp_text_of(line));

  size_t room = name.len + 100;
  char *json = malloc(room);
  int length = snprintf(json, room, "{\"text\":\"Hello, %.*s!\",\"greeted\":%s}", (int)name.len, name.ptr, digits);
  return mcp_ok((mcp_text){ json, (size_t)length });
}

static mcp_result greeted(mcp_text params) {
  (void)params;
  static char json[48];
  snprintf(json, sizeof json, "{\"greeted\":%lu}", count());
  return mcp_ok(mcp_text_of(json));
}

static const mcp_method METHODS[] = {
  {
    "greet", "Greets somebody, and counts it", MCP_MUTATING, false,
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"minLength\":1,\"maxLength\":100}},"
    "\"required\":[\"name\"],\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"},\"greeted\":" COUNT "},"
    "\"required\":[\"text\",\"greeted\"]}",
    greet,
  },
  {
    "greeted", "How often it has greeted", MCP_READ_ONLY, true,
    "{\"type\":\"object\",\"additionalProperties\":false}",
    "{\"type\":\"object\",\"properties\":{\"greeted\":" COUNT "},\"required\":[\"greeted\"]}",
    greeted,
  },
};

MCP_PLUGIN(METHODS)
