# Leaves llama.cpp's `common` library (argument parsing, downloads, chat parsers) out of the build: EdgeLLM calls
# only libllama. llama-cpp-python forces LLAMA_BUILD_COMMON to ON in the cache, so a define cannot turn it off; this
# file is included right after project(llama.cpp), where a normal variable hides the cache entry.
set(LLAMA_BUILD_COMMON OFF)
