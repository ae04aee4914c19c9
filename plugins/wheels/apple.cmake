# Read after every project() of llama.cpp's build for macOS, which zig makes without Apple's SDK.

# llama-cpp-python forces Metal on in the cache; a normal variable hides that.
foreach(framework METAL ACCELERATE BLAS)
  set(GGML_${framework} OFF)
endforeach()
# Written as it shall be installed: a tool that changed the run path later would break the file's signature.
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_INSTALL_RPATH "@loader_path")
