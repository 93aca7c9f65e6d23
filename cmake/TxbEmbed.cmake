# txb_embed(<target> <name> <file>...): compiles text files into <target> and makes "<name>.h" for it, with one
# `extern const char txb_text_<stem>[]` a file (stem: the file's name, everything but letters and digits as _), and a table
# `txb_<name>_files[]` of {name, text, size} in the order given, ended by a row of NULL. SQL stays in .sql files that editors, psql and reviewers can read.
function(txb_embed target name)
  set(out "${CMAKE_CURRENT_BINARY_DIR}/embedded")
  add_custom_command(
    OUTPUT "${out}/${name}.c" "${out}/${name}.h"
    COMMAND ${CMAKE_COMMAND} "-DNAME=${name}" "-DOUT=${out}" "-DFILES=${ARGN}" -P "${PROJECT_SOURCE_DIR}/cmake/embed.cmake"
    DEPENDS ${ARGN} "${PROJECT_SOURCE_DIR}/cmake/embed.cmake"
    VERBATIM)
  target_sources(${target} PRIVATE "${out}/${name}.c" "${out}/${name}.h")
  target_include_directories(${target} PUBLIC "$<BUILD_INTERFACE:${out}>")
endfunction()
