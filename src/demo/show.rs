//! The demonstration itself: one file system, written and overwritten through NVMe/TCP, mirrored with references and with full blocks.

use super::pair::{Pair, sha256, stop_flag};
use super::table::{self, Column};
use super::{config, files, link};
use crate::args;
use crate::load::{self, Measured, Random, Request};
use anyhow::{Context as _, ensure};
use ibid_client::{ConnectOptions, Initiator};
use ibid_control::config::CpMode;
use ibid_control::status::Status;
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::File;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Rounds of random overwrites, each followed by a consistency point; one more puts the original bytes back.
const ROUNDS: u64 = 3;
/// Blocks overwritten in a round.
const ROUND_BLOCKS: u64 = 4096;
const BLOCK_BYTES: u64 = 4096;
/// The image is written in pieces of this size …
const PIECE_BYTES: u64 = 128 << 10;
/// … with so many in flight, and overwritten with so many.
const IMAGE_DEPTH: usize = 8;
const ROUND_DEPTH: usize = 32;

pub(super) fn run(args: &args::Demo, folder: &Path) -> anyhow::Result<ExitCode> {
    let stop = stop_flag()?;
    let device = link::choose(args.link);
    let steps = Steps::new();
    let bytes = args.size();
    let image = folder.join("image");
    steps.say("gathering real files and making an ext4 image of them");
    let tree = files::gather(&folder.join("files"), bytes / 4)?;
    files::make_image(&tree, &image, bytes)?;
    steps.say(&format!(
        "{} files, {} MiB, in an image of {} MiB",
        tree.files,
        tree.bytes >> 20,
        bytes >> 20
    ));
    let expected = sha256(&image, bytes)?;

    let modes =
        args.cp_mode.map_or_else(|| vec![CpMode::Reference, CpMode::Full], |mode| vec![mode]);
    let mut columns = Vec::new();
    for mode in modes {
        let mut pair_config = config(args, folder, device, mode);
        // Clients of the demonstration are its own: any free port will do.
        pair_config.listen = SocketAddr::new(args.listen.ip(), 0);
        steps.say(&format!(
            "cp_mode = {}: starting source and destination, {} between them",
            mode.word(),
            word(device)
        ));
        let mut pair = Pair::start(&pair_config)?;
        let listen = pair.wait_until_ready()?;
        let run = Run { steps: &steps, stop: &stop, image: File::open(&image)?, bytes };
        let (measured, source, destination) = run.load(&pair, listen)?;
        steps.say("stopping both nodes and comparing their volumes");
        pair.stop()?;
        let [mine, theirs] = pair.digests()?;
        ensure!(mine == theirs, "the mirror differs from the source");
        ensure!(mine == expected, "both volumes are equal, but not to what was written");
        files::check_image(&pair.mirror()).context("the mirror's file system")?;
        let equal =
            files::compare(&tree, &pair.mirror(), &folder.join(format!("out-{}", mode.word())))?;
        steps.say(&format!(
            "volumes identical (sha256 {}…), e2fsck clean, {equal} files equal",
            &crate::report::hex(&mine)[..16]
        ));
        columns.push(Column { mode, measured, source, destination });
    }
    println!();
    print!("{}", table::render(&columns));
    println!("\nmirror identical: yes ({:.0} s)", steps.start.elapsed().as_secs_f64());
    Ok(ExitCode::SUCCESS)
}

const fn word(link: args::DemoLink) -> &'static str {
    match link {
        args::DemoLink::Memif => "memif",
        args::DemoLink::AfPacket => "af_packet on a veth pair",
    }
}

/// What is shown while it works.
struct Steps {
    start: Instant,
}

impl Steps {
    fn new() -> Steps {
        Steps { start: Instant::now() }
    }
    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.start.elapsed().as_secs_f64());
    }
    fn bar(&self, what: &str, bytes: u64) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            self.say(what);
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(
            "          {msg:<44} {bar:30} {bytes:>10} {bytes_per_sec}",
        )
        .expect("a template that is right");
        ProgressBar::new(bytes).with_style(style).with_message(what.to_owned())
    }
}

struct Run<'a> {
    steps: &'a Steps,
    stop: &'a AtomicBool,
    image: File,
    bytes: u64,
}

impl Run<'_> {
    /// Writes the image, overwrites and restores parts of it, a consistency point after each; gives what was measured.
    fn load(&self, pair: &Pair, listen: SocketAddr) -> anyhow::Result<(Measured, Status, Status)> {
        let options = ConnectOptions { queue_depth: 64, io_queues: 2, ..ConnectOptions::default() };
        let mut client = Initiator::connect(listen, pair.nqn(), &options)?;
        let mut all = self.write_image(&mut client)?;
        pair.cp()?;
        let mut random = Random(7);
        let blocks = self.bytes / BLOCK_BYTES;
        let mut touched = Vec::new();
        for round in 1..=ROUNDS {
            let places: Vec<u64> = (0..ROUND_BLOCKS).map(|_| random.below(blocks)).collect();
            let what = format!("round {round}: {ROUND_BLOCKS} random 4 KiB overwrites");
            let mut content = Random(round);
            all.add(&self.write_blocks(&mut client, &what, &places, |_, buffer| {
                content.fill(buffer);
                Ok(())
            })?);
            touched.extend(places);
            let cp = pair.cp()?;
            self.steps.say(&format!(
                "  consistency point {}: {} references, {} blocks, {} bytes on the link",
                cp.cp, cp.records.references, cp.records.blocks, cp.link_bytes
            ));
        }
        touched.sort_unstable();
        touched.dedup();
        let what = format!("putting {} original blocks back", touched.len());
        // In an order of chance, like every round.
        for at in (1..touched.len()).rev() {
            touched.swap(at, usize::try_from(random.below(at as u64 + 1))?);
        }
        all.add(&self.write_blocks(&mut client, &what, &touched, |place, buffer| {
            Ok(self.image.read_exact_at(buffer, place * BLOCK_BYTES)?)
        })?);
        pair.cp()?;
        client.disconnect()?;
        Ok((all, pair.source_status()?, pair.destination_status()?))
    }

    /// The whole image in order; pieces that are all zero as Write Zeroes.
    fn write_image(&self, client: &mut Initiator) -> anyhow::Result<Measured> {
        let bar = self.steps.bar("writing the image through NVMe/TCP", self.bytes);
        let lba = u64::from(client.namespace().lba_bytes);
        let mut at = 0;
        let mut failed = None;
        let measured = load::run(
            client,
            IMAGE_DEPTH,
            |buffer| {
                if at >= self.bytes || self.stop.load(Ordering::Relaxed) {
                    return None;
                }
                let bytes = PIECE_BYTES.min(self.bytes - at);
                buffer.resize(bytes as usize, 0);
                if let Err(error) = self.image.read_exact_at(buffer, at) {
                    failed = Some(error);
                    return None;
                }
                let (slba, blocks) = (at / lba, (bytes / lba) as u32);
                at += bytes;
                Some(if buffer.iter().all(|byte| *byte == 0) {
                    Request::Zeroes { slba, blocks }
                } else {
                    Request::Write { slba, blocks }
                })
            },
            |bytes| bar.inc(bytes),
        )?;
        bar.finish_and_clear();
        self.go_on(failed)?;
        Ok(measured)
    }

    fn write_blocks(
        &self,
        client: &mut Initiator,
        what: &str,
        places: &[u64],
        mut fill: impl FnMut(u64, &mut [u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Measured> {
        let bar = self.steps.bar(what, places.len() as u64 * BLOCK_BYTES);
        let lba = u64::from(client.namespace().lba_bytes);
        let per_block = BLOCK_BYTES / lba;
        let mut places = places.iter();
        let mut failed = None;
        let measured = load::run(
            client,
            ROUND_DEPTH,
            |buffer| {
                if self.stop.load(Ordering::Relaxed) {
                    return None;
                }
                let place = places.next()?;
                buffer.resize(BLOCK_BYTES as usize, 0);
                if let Err(error) = fill(*place, buffer) {
                    failed = Some(error);
                    return None;
                }
                Some(Request::Write { slba: place * per_block, blocks: per_block as u32 })
            },
            |bytes| bar.inc(bytes),
        )?;
        bar.finish_and_clear();
        failed.map_or(Ok(()), Err)?;
        self.go_on(None)?;
        Ok(measured)
    }

    fn go_on(&self, failed: Option<std::io::Error>) -> anyhow::Result<()> {
        if let Some(error) = failed {
            return Err(error).context("reading the image");
        }
        ensure!(!self.stop.load(Ordering::Relaxed), "stopped by a signal");
        Ok(())
    }
}
