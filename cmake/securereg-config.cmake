# securereg for CMake: find_package(securereg) gives
#
#   securereg::securereg  the shared library and securereg.h
#   securereg::static     the static library, and what Rust's standard library needs of the system
#   securereg::cpp        securereg.hpp (header only, C++17), over the shared library, or the static one where that is all
#
# The headers lie in one folder, so a program that wants securereg.hpp over the static library links securereg::static.
# Components "shared", "static" and "cpp" may be asked for. Nothing here knows where it was installed:
# P/share/cmake/securereg, P/lib/cmake/securereg and P/lib/TRIPLET/cmake/securereg all work, and P may be moved.

# Behind all links: /lib may be one to /usr/lib, and then there is no /include.
get_filename_component(_securereg_here "${CMAKE_CURRENT_LIST_DIR}" REALPATH)
set(_securereg_prefix "")
foreach(_securereg_up "../../.." "../../../..")
  get_filename_component(_securereg_dir "${_securereg_here}/${_securereg_up}" ABSOLUTE)
  if(NOT _securereg_prefix AND EXISTS "${_securereg_dir}/include/securereg.h")
    set(_securereg_prefix "${_securereg_dir}")
  endif()
endforeach()

set(_securereg_shared "")
set(_securereg_static "")
foreach(_securereg_dir "lib/${CMAKE_LIBRARY_ARCHITECTURE}" "lib64" "lib")
  set(_securereg_stem "${_securereg_prefix}/${_securereg_dir}/libsecurereg")
  if(NOT _securereg_shared AND EXISTS "${_securereg_stem}${CMAKE_SHARED_LIBRARY_SUFFIX}")
    set(_securereg_shared "${_securereg_stem}${CMAKE_SHARED_LIBRARY_SUFFIX}")
  endif()
  if(NOT _securereg_static AND EXISTS "${_securereg_stem}.a")
    set(_securereg_static "${_securereg_stem}.a")
  endif()
endforeach()

set(securereg_shared_FOUND FALSE)
set(securereg_static_FOUND FALSE)
set(securereg_cpp_FOUND FALSE)
if(_securereg_prefix AND _securereg_shared)
  set(securereg_shared_FOUND TRUE)
  if(NOT TARGET securereg::securereg)
    add_library(securereg::securereg SHARED IMPORTED)
    set_target_properties(securereg::securereg PROPERTIES
      IMPORTED_LOCATION "${_securereg_shared}"
      INTERFACE_INCLUDE_DIRECTORIES "${_securereg_prefix}/include")
  endif()
endif()
if(_securereg_prefix AND _securereg_static)
  set(securereg_static_FOUND TRUE)
  if(NOT TARGET securereg::static)
    add_library(securereg::static STATIC IMPORTED)
    # What `rustc --print native-static-libs` says for Linux with glibc.
    set_target_properties(securereg::static PROPERTIES
      IMPORTED_LOCATION "${_securereg_static}"
      INTERFACE_INCLUDE_DIRECTORIES "${_securereg_prefix}/include"
      INTERFACE_LINK_LIBRARIES "gcc_s;util;rt;pthread;m;dl;c")
  endif()
endif()
if((securereg_shared_FOUND OR securereg_static_FOUND) AND EXISTS "${_securereg_prefix}/include/securereg.hpp")
  set(securereg_cpp_FOUND TRUE)
  if(NOT TARGET securereg::cpp)
    add_library(securereg::cpp INTERFACE IMPORTED)
    target_compile_features(securereg::cpp INTERFACE cxx_std_17)
    if(TARGET securereg::securereg)
      target_link_libraries(securereg::cpp INTERFACE securereg::securereg)
    else()
      target_link_libraries(securereg::cpp INTERFACE securereg::static)
    endif()
  endif()
endif()

if(NOT _securereg_prefix)
  set(securereg_FOUND FALSE)
  set(securereg_NOT_FOUND_MESSAGE "there is no include/securereg.h in the prefix of ${_securereg_here}")
elseif(NOT securereg_shared_FOUND AND NOT securereg_static_FOUND)
  set(securereg_FOUND FALSE)
  set(securereg_NOT_FOUND_MESSAGE
    "there is no libsecurereg in ${_securereg_prefix}/lib, lib64 or lib/${CMAKE_LIBRARY_ARCHITECTURE}")
else()
  foreach(_securereg_part IN LISTS securereg_FIND_COMPONENTS)
    if(securereg_FIND_REQUIRED_${_securereg_part} AND NOT securereg_${_securereg_part}_FOUND)
      set(securereg_FOUND FALSE)
      set(securereg_NOT_FOUND_MESSAGE "${_securereg_prefix} has no component ${_securereg_part}")
    endif()
  endforeach()
endif()

foreach(_securereg_name here prefix up dir stem shared static part name)
  unset(_securereg_${_securereg_name})
endforeach()
