# What every target of the project is compiled with.
add_library(txb_compile INTERFACE)
target_compile_definitions(txb_compile INTERFACE _GNU_SOURCE TXB_VERSION="${PROJECT_VERSION}")
target_compile_options(txb_compile INTERFACE
  -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wswitch-enum -Wformat=2 -Wcast-qual -Wundef
  -Wstrict-prototypes -Wmissing-prototypes -Wvla -fno-omit-frame-pointer)
target_include_directories(txb_compile INTERFACE
  "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/include")
# Bytes come from the network: cheap guards stay on in release. Sanitizers bring their own, and fortifying needs optimisation.
target_compile_options(txb_compile INTERFACE -fstack-protector-strong)
target_link_options(txb_compile INTERFACE "LINKER:-z,relro,-z,now")
if(NOT TXB_SANITIZE AND NOT TXB_COVERAGE)
  target_compile_options(txb_compile INTERFACE $<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE;-D_FORTIFY_SOURCE=2>)
endif()
if(TXB_WERROR)
  target_compile_options(txb_compile INTERFACE -Werror)
endif()
if(TXB_FAULTS)
  target_compile_definitions(txb_compile INTERFACE TXB_FAULTS=1)
endif()
if(TXB_SANITIZE)
  target_compile_options(txb_compile INTERFACE -fsanitize=${TXB_SANITIZE} -fno-sanitize-recover=all)
  target_link_options(txb_compile INTERFACE -fsanitize=${TXB_SANITIZE})
endif()
if(TXB_COVERAGE)
  target_compile_options(txb_compile INTERFACE --coverage -O0)
  target_link_options(txb_compile INTERFACE --coverage)
endif()
