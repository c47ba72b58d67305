//! Directories of our own, which a start that is refused takes away again.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// Makes a directory and those above it that are missing, each with this mode less the
/// umask's; which were made, innermost last.
pub fn make(path: &Path, mode: u32) -> io::Result<Vec<PathBuf>> {
    let missing = path.ancestors().take_while(|dir| !dir.exists());
    let missing = missing.filter(|dir| !dir.as_os_str().is_empty());
    let mut made: Vec<PathBuf> = missing.map(PathBuf::from).collect();
    made.reverse();
    let done = fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path);
    done.inspect_err(|_| remove_empty(&made))?;
    Ok(made)
}

/// Removes those that nobody has put anything into.
pub fn remove_empty(made: &[PathBuf]) {
    for directory in made.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_and_is_empty_goes_again() {
        let there = tempfile::tempdir().unwrap();
        let path = there.path().join("a/b/c");
        let made = make(&path, 0o700).unwrap();
        assert_eq!(
            made,
            ["a", "a/b", "a/b/c"].map(|dir| there.path().join(dir))
        );
        assert_eq!(make(&path, 0o700).unwrap(), [] as [PathBuf; 0]);
        fs::write(there.path().join("a/file"), "").unwrap();
        remove_empty(&made);
        assert!(there.path().join("a").exists() && !there.path().join("a/b").exists());

        fs::write(there.path().join("a/file"), "").unwrap();
        make(&there.path().join("a/file/b"), 0o700).unwrap_err();
        make(&there.path().join("new/\0"), 0o700).unwrap_err();
        assert!(!there.path().join("new").exists());
    }
}
