# The CUDA back end as a part of the library `autograd`: autograd/cuda/*.cu in place of absent.c.
#
# All architectures together compile for many minutes on a small machine, so AUTO asks twice: is
# there nvcc, and is there a card? Then it compiles for that card only. -DNIBBLE_CUDA=ON needs no
# card and makes code for all of them, and PTX for newer ones.
include(CheckLanguage)

# The compute capabilities of this machine's cards as "90;86", empty where there is none.
function(nibble_cards out)
  find_program(NVIDIA_SMI nvidia-smi)
  mark_as_advanced(NVIDIA_SMI)
  set(found "")
  if(NVIDIA_SMI)
    execute_process(COMMAND ${NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE text RESULT_VARIABLE failed ERROR_QUIET)
    if(NOT failed)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${text}")
      string(REPLACE "." "" found "${found}")
      list(REMOVE_DUPLICATES found)
    endif()
  endif()
  set(${out} "${found}" PARENT_SCOPE)
endfunction()

# Those of 80 86 89 90 120 that this nvcc knows, as machine code, and PTX of 90 for newer cards.
function(nibble_every_architecture out)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE known)
  set(found "")
  foreach(arch 80 86 89 90 120)
    if(known MATCHES "compute_${arch}\n")
      list(APPEND found ${arch}-real)
    endif()
  endforeach()
  set(${out} ${found} 90-virtual PARENT_SCOPE)
endfunction()

set(nibble_cuda OFF)
if(NOT NIBBLE_CUDA STREQUAL "OFF" AND NOT NIBBLE_FUZZ AND NOT NIBBLE_SANITIZE AND NOT NIBBLE_TSAN)
  nibble_cards(cards)
  if(cards OR NOT NIBBLE_CUDA STREQUAL "AUTO")
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
      set(nibble_cuda ON)
    elseif(NOT NIBBLE_CUDA STREQUAL "AUTO")
      message(FATAL_ERROR "NIBBLE_CUDA=${NIBBLE_CUDA}: nvcc is not found (CUDACXX says where it is)")
    endif()
  endif()
endif()

if(nibble_cuda)
  set(CMAKE_CUDA_ARCHITECTURES OFF) # those of the target count
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  if(NIBBLE_CUDA_ARCHITECTURES)
    set(architectures ${NIBBLE_CUDA_ARCHITECTURES})
  elseif(NIBBLE_CUDA STREQUAL "AUTO")
    list(TRANSFORM cards APPEND -real OUTPUT_VARIABLE architectures)
  else()
    nibble_every_architecture(architectures)
  endif()
  file(GLOB kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/autograd/cuda/*.cu)
  set_source_files_properties(${PROJECT_SOURCE_DIR}/autograd/cuda/absent.c PROPERTIES
    HEADER_FILE_ONLY ON) # not compiled
  target_sources(autograd PRIVATE ${kernels})
  set_target_properties(autograd PROPERTIES CUDA_ARCHITECTURES "${architectures}"
    CUDA_STANDARD 17 CUDA_RUNTIME_LIBRARY Static)
  target_compile_options(autograd PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-fno-strict-aliasing,-Wno-missing-field-initializers>")
  target_link_libraries(autograd PRIVATE CUDA::cudart_static CUDA::cublasLt)
  list(JOIN architectures " " text)
  message(STATUS "CUDA back end for ${text}")
else()
  message(STATUS "no CUDA back end (NIBBLE_CUDA=${NIBBLE_CUDA})")
endif()
