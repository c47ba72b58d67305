//! Finds the BPF compiler and linker and builds the programs.
