# Read right after project(ggml) in a build with code for each kind of processor.

# Upstream gives each kind its instructions and no tuning. `-march=native` tunes, and without it prompts are 5 % slower on a
# Zen 4. The other kinds are as upstream has them: none of their processors was at hand.
function(edgellm_tune variant processor)
  if(TARGET ggml-cpu-${variant})
    include(CheckCXXCompilerFlag)
    check_cxx_compiler_flag(-mtune=${processor} EDGELLM_TUNES_FOR_${processor})
    if(EDGELLM_TUNES_FOR_${processor})
      target_compile_options(ggml-cpu-${variant} PRIVATE -mtune=${processor})
    endif()
  endif()
endfunction()
cmake_language(DEFER CALL edgellm_tune zen4 znver4)
