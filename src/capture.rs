//! `ibid run --pcap FILE`: the capture's file, and what status says of it for as long as it is written.

use anyhow::Context as _;
use ibid_control::config::Config;
use ibid_driver::{Capture, CaptureConfig, CaptureCounts, CaptureForm};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What is watched of a capture that runs.
#[derive(Clone)]
pub(crate) struct Watch {
    file: PathBuf,
    form: CaptureForm,
    counts: CaptureCounts,
}

/// Begins the capture in a file that was not there, and that only its owner may read: it holds what hosts write.
pub(crate) fn open(
    path: &Path,
    decrypted: bool,
    config: &Config,
) -> anyhow::Result<(Capture, Watch)> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("--pcap {}", path.display()))?;
    let form = if decrypted { CaptureForm::Opened } else { CaptureForm::Wire };
    let capture = Capture::start(
        file,
        CaptureConfig {
            local: config.link.local,
            peer: config.link.peer,
            datagram_bytes_max: config.link.mtu.into(),
            form,
        },
    )
    .with_context(|| format!("--pcap {}", path.display()))?;
    let watch = Watch { file: path.to_owned(), form, counts: capture.counts() };
    Ok((capture, watch))
}

impl Watch {
    /// What an operator should know.
    pub(crate) fn warning(&self) -> String {
        let file = self.file.display();
        let (written, dropped) = (self.counts.written(), self.counts.dropped());
        if let Some(code) = self.counts.failed() {
            let says = std::io::Error::from_raw_os_error(code);
            return format!(
                "the capture of the link in {file} has ended after {written} frames: {says}"
            );
        }
        let form = match self.form {
            CaptureForm::Wire => "as they pass the wire",
            CaptureForm::Opened => "OPENED, with what hosts write",
        };
        format!(
            "frames of the link are being written to {file}, {form}: {written} so far, {dropped} missing"
        )
    }
}

impl Watch {
    /// What became of it.
    pub(crate) fn ended(&self) -> String {
        let (written, dropped) = (self.counts.written(), self.counts.dropped());
        format!("{}: {written} frames of the link, {dropped} missing", self.file.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_file_is_new_and_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.pcapng");
        let config = crate::doctor::node::tests::config();
        let (capture, watch) = open(&path, true, &config).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(watch.warning().contains("OPENED") && watch.warning().contains("0 so far"));
        drop(capture);
        let before = std::fs::read(&path).unwrap();
        assert!(before.len() > 100);
        let refused = open(&path, false, &config).err().expect("it is there already");
        assert!(format!("{refused:#}").contains("link.pcapng"), "{refused:#}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
