//! netbpf: container networking in eBPF. A library with a thin `main`, so that
//! tests use the datapath and the control code as they are.

pub mod api;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
pub mod error;
pub mod integrations;
pub mod metrics;
pub mod model;
pub mod settings;
pub mod store;
pub mod sys;
