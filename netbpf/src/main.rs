use std::process::ExitCode;

fn main() -> ExitCode {
    netbpf::cli::run(std::env::args_os())
}
