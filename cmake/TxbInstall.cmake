# Install rules: library, headers, program, man page, shell completions, pkg-config file and CMake package. Nothing installed holds the prefix, so
# `cmake --install build --prefix X` and packaging by DESTDIR give the same files.
include(CMakePackageConfigHelpers)
set(txb_cmake_dir "${CMAKE_INSTALL_LIBDIR}/cmake/txbroker")
set(txb_pkgconfig_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")

install(TARGETS txbroker RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
install(TARGETS txbroker_shared txbroker_static EXPORT txbrokerTargets
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY include/txbroker DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.h")
install(FILES schemas/json/saga.schema.json DESTINATION "${CMAKE_INSTALL_DATADIR}/txbroker")
install(EXPORT txbrokerTargets NAMESPACE txbroker:: DESTINATION "${txb_cmake_dir}")

configure_package_config_file(cmake/txbrokerConfig.cmake.in "${PROJECT_BINARY_DIR}/txbrokerConfig.cmake"
  INSTALL_DESTINATION "${txb_cmake_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/txbrokerConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/txbrokerConfig.cmake" "${PROJECT_BINARY_DIR}/txbrokerConfigVersion.cmake"
  DESTINATION "${txb_cmake_dir}")

file(RELATIVE_PATH TXB_PC_TO_PREFIX "/${txb_pkgconfig_dir}" "/")
string(REGEX REPLACE "/$" "" TXB_PC_TO_PREFIX "${TXB_PC_TO_PREFIX}")
configure_file(cmake/txbroker.pc.in "${PROJECT_BINARY_DIR}/txbroker.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/txbroker.pc" DESTINATION "${txb_pkgconfig_dir}")

# The man page and the completions are printed by the program from its own tables, so they can't differ from it.
if(NOT CMAKE_CROSSCOMPILING AND NOT TXB_SANITIZE AND NOT TXB_COVERAGE)
  set(txb_printed "${PROJECT_BINARY_DIR}/printed")
  file(MAKE_DIRECTORY "${txb_printed}")
  function(txb_print_file file destination)
    add_custom_command(
      OUTPUT "${txb_printed}/${file}" COMMAND txbroker ${ARGN} > "${txb_printed}/${file}" DEPENDS txbroker VERBATIM)
    set_property(GLOBAL APPEND PROPERTY TXB_PRINTED "${txb_printed}/${file}")
    install(FILES "${txb_printed}/${file}" DESTINATION "${destination}")
  endfunction()
  txb_print_file(txbroker.1 "${CMAKE_INSTALL_MANDIR}/man1" man)
  txb_print_file(txbroker "${CMAKE_INSTALL_DATADIR}/bash-completion/completions" completion bash)
  txb_print_file(_txbroker "${CMAKE_INSTALL_DATADIR}/zsh/site-functions" completion zsh)
  txb_print_file(txbroker.fish "${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d" completion fish)
  get_property(txb_printed_files GLOBAL PROPERTY TXB_PRINTED)
  add_custom_target(txb_printed ALL DEPENDS ${txb_printed_files})
endif()
