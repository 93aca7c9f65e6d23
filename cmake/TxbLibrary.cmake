# libtxbroker: the folders common, outbox and consumer as one library for applications, shared and static. Only the functions marked TXB_EXPORT
# leave the shared one: everything is compiled with hidden visibility, and the version script keeps out what third-party objects might export.
set(TXB_ABI 0)
set(txb_version_script "${PROJECT_SOURCE_DIR}/cmake/txbroker.map")
set(txb_objects $<TARGET_OBJECTS:txb_common> $<TARGET_OBJECTS:txb_outbox> $<TARGET_OBJECTS:txb_consumer>)

foreach(kind shared static)
  string(TOUPPER ${kind} type)
  add_library(txbroker_${kind} ${type} ${txb_objects})
  set_target_properties(txbroker_${kind} PROPERTIES
    OUTPUT_NAME txbroker
    ARCHIVE_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}"
    LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}"
    LINKER_LANGUAGE C)
  # The public headers name PGconn, so whoever includes them needs libpq's headers; the rest is the library's own business.
  target_include_directories(txbroker_${kind} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(txbroker_${kind}
    PUBLIC $<BUILD_INTERFACE:PkgConfig::LIBPQ> $<INSTALL_INTERFACE:PkgConfig::TXBROKER_LIBPQ>)
endforeach()

target_link_libraries(txbroker_shared
  PRIVATE txb_compile PkgConfig::RDKAFKA PkgConfig::JANSSON PkgConfig::CRYPTO Threads::Threads ${CMAKE_DL_LIBS})
target_link_options(txbroker_shared PRIVATE "LINKER:--version-script=${txb_version_script}")
if(NOT TXB_SANITIZE)
  target_link_options(txbroker_shared PRIVATE "LINKER:--no-undefined")
endif()
set_target_properties(txbroker_shared PROPERTIES
  VERSION "${PROJECT_VERSION}" SOVERSION ${TXB_ABI} LINK_DEPENDS "${txb_version_script}" EXPORT_NAME txbroker)

target_link_libraries(txbroker_static
  PRIVATE $<BUILD_INTERFACE:txb_compile>
  INTERFACE $<INSTALL_INTERFACE:PkgConfig::TXBROKER_STATIC> $<INSTALL_INTERFACE:Threads::Threads> ${CMAKE_DL_LIBS})
set_target_properties(txbroker_static PROPERTIES EXPORT_NAME static)
