// Where this build's compiler put each field of the structs that Python reads and writes by offset.
//
// Part of libllama in our own builds. A library whose structs differ does not fail: it reads other fields than were
// written. So the plugin compares these rows with its binding before it opens a model (edgellm_gguf/layout.py).

#include <cstddef>
#include <cstdint>

#include "ggml.h"
#include "gguf.h"
#include "llama.h"

struct edgellm_row {
    const char * name;  // "llama_batch", "llama_batch.token"
    uint32_t offset;    // bytes; a constant's value
    uint32_t size;      // bytes; 0 = a constant
};

#define WHOLE(type) {#type, 0, sizeof(type)},
#define FIELD(type, field) {#type "." #field, offsetof(type, field), sizeof(((type *) nullptr)->field)},
#define VALUE(name) {#name, static_cast<uint32_t>(name), 0},

static const edgellm_row rows[] = {
#include "layout.inc.h"
    {nullptr, 0, 0},
};

extern "C" {
LLAMA_API const edgellm_row * edgellm_layout(void);  // ends with a row without a name
LLAMA_API const char * edgellm_source(void);         // the commit of llama.cpp; "" = not known
}

const edgellm_row * edgellm_layout(void) {
    return rows;
}

const char * edgellm_source(void) {
    return EDGELLM_SOURCE;
}
