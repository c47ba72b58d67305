//! A pod: its sandbox holds the network, its containers join it.

use std::net::IpAddr;

use tonic::Status;

use crate::clients::image;

use super::{
    Cri, IMAGE,
    messages::{
        ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec,
        LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PodSandboxState,
        PodSandboxStatus, PodSandboxStatusRequest, PortMapping, Protocol, RemovePodSandboxRequest,
        RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
    },
};

impl PortMapping {
    /// A port of all addresses of the host.
    pub fn new(protocol: Protocol, host_port: u16, container_port: u16) -> PortMapping {
        PortMapping {
            protocol: protocol.into(),
            container_port: container_port.into(),
            host_port: host_port.into(),
            host_ip: String::new(),
        }
    }

    pub fn tcp(host_port: u16, container_port: u16) -> PortMapping {
        PortMapping::new(Protocol::Tcp, host_port, container_port)
    }

    pub fn udp(host_port: u16, container_port: u16) -> PortMapping {
        PortMapping::new(Protocol::Udp, host_port, container_port)
    }

    /// Of this address of the host alone.
    pub fn at(self, host_ip: &str) -> PortMapping {
        PortMapping {
            host_ip: host_ip.into(),
            ..self
        }
    }
}

/// A handle: a pod that is not removed ends with its containerd.
pub struct Pod<'a> {
    cri: &'a Cri,
    id: String,
    config: PodSandboxConfig,
}

impl<'a> Pod<'a> {
    /// Starts its sandbox, without containers.
    pub(super) fn run(
        cri: &'a Cri,
        name: &str,
        port_mappings: &[PortMapping],
    ) -> Result<Pod<'a>, Status> {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-of-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            port_mappings: port_mappings.into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: cri.cgroup_name(),
            }),
        };
        let answer = cri.call(RunPodSandboxRequest {
            config: Some(config.clone()),
        })?;
        Ok(Pod {
            cri,
            id: answer.pod_sandbox_id,
            config,
        })
    }

    /// The sandbox's: `CNI_CONTAINERID`, and the name of its cgroup.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Starts a container of the image's web server in it; the container's id.
    #[track_caller]
    pub fn serve(&self) -> String {
        self.try_serve()
            .unwrap_or_else(|e| panic!("no container in {}: {e}", self.id))
    }

    fn try_serve(&self) -> Result<String, Status> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: "web".into(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: IMAGE.into(),
            }),
            command: image::COMMAND.map(str::to_owned).into(),
        };
        let created = self.cri.call(CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        })?;
        let container_id = created.container_id;
        self.cri.call(StartContainerRequest {
            container_id: container_id.clone(),
        })?;
        Ok(container_id)
    }

    /// Its status; an error once it is removed.
    pub fn status(&self) -> Result<PodSandboxStatus, Status> {
        let answer = self.cri.call(PodSandboxStatusRequest {
            pod_sandbox_id: self.id.clone(),
        })?;
        Ok(answer.status.unwrap_or_default())
    }

    #[track_caller]
    fn known_status(&self) -> PodSandboxStatus {
        self.status()
            .unwrap_or_else(|e| panic!("no status of {}: {e}", self.id))
    }

    #[track_caller]
    pub fn is_ready(&self) -> bool {
        self.known_status().state() == PodSandboxState::Ready
    }

    /// Its addresses as the plugin has reported them, the first one first.
    #[track_caller]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let network = self.known_status().network.unwrap_or_default();
        let further = network.additional_ips.into_iter().map(|further| further.ip);
        let all = std::iter::once(network.ip).chain(further);
        all.filter(|ip| !ip.is_empty())
            .map(|ip| ip.parse().unwrap_or_else(|e| panic!("{ip}: {e}")))
            .collect()
    }

    /// Ends its containers and takes its network down.
    pub fn stop(&self) -> Result<(), Status> {
        self.cri.call(StopPodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        })
    }

    /// Removes it and its containers; takes its network down when it was not stopped.
    pub fn remove(&self) -> Result<(), Status> {
        self.cri.call(RemovePodSandboxRequest {
            pod_sandbox_id: self.id.clone(),
        })
    }
}
