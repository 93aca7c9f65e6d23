# Install rules: library, headers, program, pkg-config file and CMake package.
