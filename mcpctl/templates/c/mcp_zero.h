// The plugin interface (wit/plugin.wit) for C: one header, nothing to link.
//
//   MCP_PLUGIN(METHODS)      exports a table of methods
//   mcp_state_*, mcp_log, mcp_http_send, mcp_agent_call     the host's side; what plugin.toml doesn't list in its imports must not be called
//
// Every call runs in an instance of its own that is gone afterwards: what is allocated needs no freeing.
// The bytes on the boundary follow the component model's canonical ABI.

#ifndef MCP_ZERO_H
#define MCP_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MCP_IMPORT(interface, function) \
  __attribute__((import_module("mcp-zero:plugin/" interface "@0.1.0"), import_name(function)))
#define MCP_EXPORT(function) __attribute__((export_name(function)))

// Bytes, or UTF-8. Not closed by a zero.
typedef struct { const char *ptr; size_t len; } mcp_text;

static inline mcp_text mcp_text_of(const char *zero_ended) { return (mcp_text){ zero_ended, strlen(zero_ended) }; }

// ---- results ----

typedef enum { MCP_UNKNOWN_METHOD, MCP_INVALID_PARAMS, MCP_DENIED, MCP_FAILED } mcp_error_kind;

// `result<string, error>` as it lies in memory: a success's text is where an error has its kind.
typedef struct {
  uint8_t is_error;
  union { mcp_text ok; struct { uint8_t kind; mcp_text text; } error; } as;
} mcp_result;
_Static_assert(sizeof(mcp_result) == 16, "the canonical ABI's layout");

static inline mcp_result mcp_ok(mcp_text json) { return (mcp_result){ .is_error = 0, .as.ok = json }; }

static inline mcp_result mcp_fail(mcp_error_kind kind, mcp_text text) {
  return (mcp_result){ .is_error = 1, .as.error = { (uint8_t)kind, text } };
}

// ---- methods ----

typedef enum { MCP_READ_ONLY, MCP_MUTATING } mcp_effect;

typedef struct {
  const char *name, *description;
  mcp_effect effect;
  bool idempotent;                          // calling it twice is as good as once
  const char *input_schema, *output_schema; // JSON Schema
  mcp_result (*call)(mcp_text params);      // params: JSON that fits the input schema
} mcp_method;

typedef struct {
  mcp_text name, description;
  uint8_t effect, idempotent;
  mcp_text input_schema, output_schema;
} mcp_described;
_Static_assert(sizeof(mcp_described) == 36, "the canonical ABI's layout");

// `describe` and `call`, for a table (an array, not a pointer) of methods.
#define MCP_PLUGIN(table)                                                                                      \
  MCP_EXPORT("describe") mcp_text *mcp_export_describe(void) {                                                 \
    static mcp_described described[sizeof(table) / sizeof(*table)];                                            \
    static mcp_text list = { (const char *)described, sizeof(table) / sizeof(*table) };                        \
    for (size_t i = 0; i < list.len; i++) described[i] = mcp_describe(&table[i]);                              \
    return &list;                                                                                              \
  }                                                                                                            \
  MCP_EXPORT("call")                                                                                           \
  mcp_result *mcp_export_call(const char *name, size_t name_len, const char *params, size_t params_len) {      \
    static mcp_result result;                                                                                  \
    result = mcp_fail(MCP_UNKNOWN_METHOD, (mcp_text){ name, name_len });                                       \
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)                                                \
      if (strlen(table[i].name) == name_len && memcmp(table[i].name, name, name_len) == 0)                     \
        result = table[i].call((mcp_text){ params, params_len });                                              \
    return &result;                                                                                            \
  }

static inline mcp_described mcp_describe(const mcp_method *method) {
  return (mcp_described){
    .name = mcp_text_of(method->name), .description = mcp_text_of(method->description),
    .effect = (uint8_t)method->effect, .idempotent = method->idempotent,
    .input_schema = mcp_text_of(method->input_schema), .output_schema = mcp_text_of(method->output_schema),
  };
}

// The host puts what it hands over here.
MCP_EXPORT("cabi_realloc")
void *mcp_export_realloc(void *old, size_t old_size, size_t align, size_t size) {
  (void)old_size, (void)align; // malloc aligns for everything
  void *new = size ? realloc(old, size) : (void *)align;
  if (!new) abort();
  return new;
}

// ---- state ----

typedef struct { uint8_t some; mcp_text value; } mcp_option;

MCP_IMPORT("state", "get") void mcp_import_get(const char *, size_t, mcp_option *);
MCP_IMPORT("state", "set") void mcp_import_set(const char *, size_t, const char *, size_t, mcp_option *);
MCP_IMPORT("state", "delete") void mcp_import_delete(const char *, size_t, mcp_option *);
MCP_IMPORT("state", "list-keys")
void mcp_import_list(const char *, size_t, uint32_t, const char *, size_t, uint32_t, mcp_text *);

// Whether there is a value.
static inline bool mcp_state_get(mcp_text key, mcp_text *value) {
  mcp_option found;
  mcp_import_get(key.ptr, key.len, &found);
  *value = found.some ? found.value : (mcp_text){ 0 };
  return found.some;
}

// False with the reason in `why`: in a read-only method, or over the quota.
static inline bool mcp_state_set(mcp_text key, mcp_text value, mcp_text *why) {
  mcp_option refused;
  mcp_import_set(key.ptr, key.len, value.ptr, value.len, &refused);
  if (refused.some) *why = refused.value;
  return !refused.some;
}

static inline bool mcp_state_delete(mcp_text key, mcp_text *why) {
  mcp_option refused;
  mcp_import_delete(key.ptr, key.len, &refused);
  if (refused.some) *why = refused.value;
  return !refused.some;
}

// Keys with a prefix, in order, those after `after` if it isn't null; says how many.
static inline size_t mcp_state_list(mcp_text prefix, const mcp_text *after, uint32_t limit, const mcp_text **keys) {
  mcp_text list, from = after ? *after : (mcp_text){ 0 };
  mcp_import_list(prefix.ptr, prefix.len, after != 0, from.ptr, from.len, limit, &list);
  *keys = (const mcp_text *)list.ptr;
  return list.len;
}

// ---- log, clock, random ----

typedef enum { MCP_DEBUG, MCP_INFO, MCP_WARN, MCP_ERROR } mcp_level;

MCP_IMPORT("log", "write") void mcp_import_log(uint32_t, const char *, size_t);
MCP_IMPORT("clock", "now") uint64_t mcp_clock_now(void); // milliseconds since 1970
MCP_IMPORT("random", "bytes") void mcp_import_random(uint32_t, mcp_text *);

static inline void mcp_log(mcp_level level, mcp_text line) { mcp_import_log(level, line.ptr, line.len); }

// At most 64 KiB.
static inline mcp_text mcp_random(uint32_t count) {
  mcp_text bytes;
  mcp_import_random(count, &bytes);
  return bytes;
}

// ---- http, agents ----

typedef struct { mcp_text name, value; } mcp_header;

typedef struct {
  uint8_t is_error;
  union {
    struct { uint16_t status; struct { const mcp_header *ptr; size_t len; } headers; mcp_text body; } response;
    mcp_text error;
  } as;
} mcp_http_result;
_Static_assert(sizeof(mcp_http_result) == 24, "the canonical ABI's layout");

MCP_IMPORT("http", "send")
void mcp_import_http(const char *, size_t, const char *, size_t, const mcp_header *, size_t, const char *, size_t, mcp_http_result *);
MCP_IMPORT("agents", "call")
void mcp_import_agent(const char *, size_t, const char *, size_t, const char *, size_t, mcp_result *);

// `method` such as "GET"; `url` begins with https://, or http:// where that was granted. Redirects are not followed.
static inline mcp_http_result mcp_http_send(mcp_text method, mcp_text url, const mcp_header *headers, size_t count, mcp_text body) {
  mcp_http_result result;
  mcp_import_http(method.ptr, method.len, url.ptr, url.len, headers, count, body.ptr, body.len, &result);
  return result;
}

// `agent` is a name on this node, or an id. A result that is an error can be returned as it is.
static inline mcp_result mcp_agent_call(mcp_text agent, mcp_text method, mcp_text params) {
  mcp_result result;
  mcp_import_agent(agent.ptr, agent.len, method.ptr, method.len, params.ptr, params.len, &result);
  return result;
}

#endif
