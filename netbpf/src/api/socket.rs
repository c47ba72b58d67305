//! The unix socket that the API listens on.

use std::{
    fs::{self, Permissions},
    io, mem,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::{UnixListener as StdListener, UnixStream as StdStream},
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;
use tracing::{debug, warn};

use crate::{
    error::{Code, Error, Result},
    sys::directories,
};

/// Members of the group may do all that root may.
const MODE: u32 = 0o660;

/// A listening socket with its file, which goes when this is dropped if we made it.
pub struct Socket {
    path: PathBuf,
    /// Of the file that we made: another daemon may have put its own there. None where
    /// systemd made it, and keeps it while there is no daemon.
    inode: Option<u64>,
    listener: Option<StdListener>,
    /// Directories that were made for it.
    made: Vec<PathBuf>,
}

impl Socket {
    /// Listens on `path`. The parent directory is made if it is missing; the
    /// file of a daemon that is no more is replaced, that of a running one is
    /// `conflict`. Connections queue until [`Socket::listener`] is served.
    pub fn bind(path: &Path, group: &str) -> Result<Socket> {
        let failed = |what: &str, e: io::Error| {
            Error::internal(format!("socket {}: {what}: {e}", path.display()))
        };
        let made = match path.parent() {
            Some(parent) => make_directory(parent),
            None => Ok(Vec::new()),
        };
        let made = made.map_err(|e| failed("cannot make its directory", e))?;
        let bound = Socket::bind_in(path, group, &failed);
        let (inode, listener) = bound.inspect_err(|_| directories::remove_empty(&made))?;
        Ok(Socket {
            path: path.into(),
            inode: Some(inode),
            listener: Some(listener),
            made,
        })
    }

    fn bind_in(
        path: &Path,
        group: &str,
        failed: &dyn Fn(&str, io::Error) -> Error,
    ) -> Result<(u64, StdListener)> {
        refuse_taken(path)?;

        // Bound under another name and renamed, so that under its own name it
        // never has other permissions than it should.
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let _ = fs::remove_file(&temporary);
        let listener = StdListener::bind(&temporary).map_err(|e| failed("cannot bind", e))?;
        let inode = dress(&temporary, group)
            .and_then(|inode| fs::rename(&temporary, path).map(|()| inode))
            .and_then(|inode| listener.set_nonblocking(true).map(|()| inode))
            .map_err(|e| {
                let _ = fs::remove_file(&temporary);
                failed("cannot set it up", e)
            })?;
        Ok((inode, listener))
    }

    /// Takes away what was made for it, too: the daemon has come to nothing.
    pub fn discard(mut self) {
        let made = mem::take(&mut self.made);
        drop(self);
        directories::remove_empty(&made);
    }

    /// A socket that systemd listens on for us; its file, mode and group are systemd's.
    /// It must be the one that we are told to answer on.
    pub fn handed_over(listener: StdListener, path: &Path) -> Result<Socket> {
        let address = listener
            .local_addr()
            .map_err(|e| Error::internal(format!("the socket from systemd: {e}")))?;
        let there = address.as_pathname().unwrap_or(Path::new(""));
        if there != path {
            return Err(Error::invalid(format!(
                "systemd listens on socket {:?}, but the daemon is to answer on {}: make \
                 ListenStream= of netbpf.socket and the daemon's socket the same",
                there.display().to_string(),
                path.display()
            )));
        }
        Ok(Socket {
            path: path.into(),
            inode: None,
            listener: Some(listener),
            made: Vec::new(),
        })
    }

    /// Gives the file to another group.
    pub fn set_group(&self, group: &str) -> Result<()> {
        let failed = |e: io::Error| {
            let path = self.path.display();
            Error::internal(format!("socket {path}: cannot give it to {group:?}: {e}"))
        };
        // Of a group that is not there, it is for root alone.
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        let gid = group_id(&groups, group).unwrap_or(0);
        chown(&self.path, None, Some(gid)).map_err(failed)
    }

    /// The listener, once; it must be called within a runtime.
    pub fn listener(&mut self) -> Result<UnixListener> {
        let listener = self
            .listener
            .take()
            .ok_or_else(|| Error::internal("the socket is served already"))?;
        UnixListener::from_std(listener)
            .map_err(|e| Error::internal(format!("socket {}: {e}", self.path.display())))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |inode| fs::metadata(&self.path).is_ok_and(|m| m.ino() == inode);
        if self.inode.is_some_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the directory if it is missing, open to all whatever the umask: members
/// of the group must reach the socket. One that is there is left as it is.
fn make_directory(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(Vec::new());
    }
    let made = directories::make(path, 0o755)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(made)
}

/// Whether something is at `path` that must not be replaced.
fn refuse_taken(path: &Path) -> Result<()> {
    let Ok(there) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !there.file_type().is_socket() {
        let message = format!(
            "socket {}: there is a file that is no socket",
            path.display()
        );
        return Err(Error::new(Code::Conflict, message));
    }
    match StdStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            debug!("replacing the stale socket {}", path.display());
            Ok(())
        }
        // It may have gone meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::new(
            Code::Conflict,
            format!("socket {} is in use: {e}", path.display()),
        )),
        Ok(_) => Err(Error::new(
            Code::Conflict,
            format!("another daemon answers on socket {}", path.display()),
        )),
    }
}

/// Gives the file its group and mode; returns its inode.
fn dress(path: &Path, group: &str) -> io::Result<u64> {
    match group_id(&fs::read_to_string("/etc/group").unwrap_or_default(), group) {
        // Only root can hand it to a group that it is not in itself.
        Some(gid) => match chown(path, None, Some(gid)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                warn!("the socket cannot be given to group {group}: {e}");
            }
            done => done?,
        },
        None => debug!("there is no group {group}: the socket is for root alone"),
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(fs::metadata(path)?.ino())
}

/// The number of a group in the text of `/etc/group`.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == name;
        let id = fields.nth(1)?;
        found.then(|| id.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\nnetbpf2:x:7:\nnetbpf:x:998:ann,bob\nbad\n";
        assert_eq!(group_id(groups, "netbpf"), Some(998));
        assert_eq!(group_id(groups, "net"), None);
        assert_eq!(group_id("", "netbpf"), None);
    }

    #[test]
    fn directory_is_made_and_mode_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/s.sock");
        let socket = Socket::bind(&path, "no-such-group").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let mode = fs::metadata(path.parent().unwrap())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn live_socket_is_a_conflict_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = Socket::bind(&path, "").unwrap();
        let error = Socket::bind(&path, "").err().unwrap();
        assert_eq!(error.code, Code::Conflict);
        assert!(error.message.contains("another daemon answers"), "{error}");
        drop(first);

        // A listener that is dropped leaves its file.
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());
        Socket::bind(&path, "").unwrap();
    }

    #[test]
    fn other_files_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        fs::write(&path, "mine").unwrap();
        let error = Socket::bind(&path, "").err().unwrap();
        assert_eq!(error.code, Code::Conflict);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn too_long_a_path_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(120));
        let error = Socket::bind(&path, "").err().unwrap();
        assert!(error.message.contains("xxx"), "{error}");
    }

    #[test]
    fn file_of_a_successor_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let first = Socket::bind(&path, "").unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        let _second = Socket::bind(&path, "").unwrap();
        drop(first);
        assert!(path.exists());
    }
}
