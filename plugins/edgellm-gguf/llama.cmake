# Read right after project(llama.cpp), where a normal variable hides an entry of the cache.

# llama.cpp's `common` library (argument parsing, downloads, chat parsers) is left out: EdgeLLM calls only libllama.
# llama-cpp-python forces it to ON in the cache.
set(LLAMA_BUILD_COMMON OFF)

# The package has no git history, but its list of changes begins with the commit that it was made of.
set(EDGELLM_SOURCE "")
if(EXISTS "${CMAKE_SOURCE_DIR}/CHANGELOG.md")
  file(READ "${CMAKE_SOURCE_DIR}/CHANGELOG.md" changes)
  if(changes MATCHES "llama\\.cpp@([0-9a-f]+)")
    set(EDGELLM_SOURCE "${CMAKE_MATCH_1}")
  endif()
endif()

# Libraries of one folder find each other.
set(CMAKE_INSTALL_RPATH "$ORIGIN")

set(EDGELLM_PLUGIN "${CMAKE_CURRENT_LIST_DIR}")
function(edgellm_finish)
  target_sources(llama PRIVATE "${EDGELLM_PLUGIN}/native/layout.cpp")
  set_property(SOURCE "${EDGELLM_PLUGIN}/native/layout.cpp" TARGET_DIRECTORY llama
    PROPERTY COMPILE_DEFINITIONS "EDGELLM_SOURCE=\"${EDGELLM_SOURCE}\"")
  # A wheel holds no links: it would have each library of a processor three times, by name and by two versions.
  get_property(targets DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}/ggml/src" PROPERTY BUILDSYSTEM_TARGETS)
  list(FILTER targets INCLUDE REGEX "^ggml-cpu-")
  foreach(target ${targets})
    set_property(TARGET ${target} PROPERTY VERSION)
    set_property(TARGET ${target} PROPERTY SOVERSION)
  endforeach()
endfunction()
cmake_language(DEFER CALL edgellm_finish)
