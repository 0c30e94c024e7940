//! The initiator against the real frontend over loopback.

mod auth;
mod target;

use crate::{ClientError, ConnectOptions, Initiator, RefusedWhy, Status, discover};
use ibid_wire::nvme_tcp::{DISCOVERY_NQN, subtype};
use std::time::{Duration, Instant};
use target::{NQN, Target, VOLUME_BYTES};

/// xorshift64: repeatable, and good enough to tell places apart.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

fn digests(header: bool, data: bool) -> ConnectOptions {
    ConnectOptions { header_digest: header, data_digest: data, ..ConnectOptions::default() }
}

#[test]
fn discovery_names_the_subsystem() {
    let target = Target::start(4096);
    let found = discover(target.addr, &ConnectOptions::default()).unwrap();
    let names: Vec<_> = found.iter().map(|one| (one.kind, one.nqn.as_str())).collect();
    assert_eq!(names, [(subtype::NVM, NQN), (subtype::CURRENT, DISCOVERY_NQN)]);
    for one in &found {
        assert_eq!(one.traddr, "127.0.0.1");
        assert_eq!(one.trsvcid, target.addr.port().to_string());
    }
}

#[test]
fn what_is_written_in_any_size_is_read_back_with_every_choice_of_digests_and_format() {
    for lba in [512_u32, 4096] {
        for (header, data, no_flow_control) in [
            (false, false, true),
            (true, false, false),
            (false, true, true),
            (true, true, false),
            (true, true, true),
        ] {
            let target = Target::start(lba);
            let options = ConnectOptions { no_flow_control, ..digests(header, data) };
            let mut host = Initiator::connect(target.addr, NQN, &options).unwrap();
            assert_eq!(host.namespace().lba_bytes, lba);
            assert_eq!(host.namespace().blocks * u64::from(lba), VOLUME_BYTES);
            assert_eq!(host.namespace().atomic_blocks * lba, 1 << 20);
            let mut random = Random(u64::from(lba) + 7);
            let mut model = vec![0; VOLUME_BYTES as usize];
            for bytes in
                [512, 4096, 8192, 16384, 16384 + 4096, 65536 + 512, 1 << 20, (1 << 20) + 8192]
            {
                let bytes = usize::max(bytes, lba as usize) / lba as usize * lba as usize;
                let slba = random.below((VOLUME_BYTES - bytes as u64) / u64::from(lba));
                let at = slba as usize * lba as usize;
                random.fill(&mut model[at..at + bytes]);
                host.write(slba, &model[at..at + bytes]).unwrap();
                let mut back = vec![0; bytes];
                host.read(slba, &mut back).unwrap();
                assert!(back == model[at..at + bytes], "{bytes} bytes came back different");
            }
            host.flush().unwrap();
            let whole = 3 * (1 << 20) / lba as usize * lba as usize;
            assert!(host.compare(0, &model[..whole]).unwrap());
            for bytes in [lba as usize, 16384, (1 << 20) + lba as usize] {
                let mut wrong = model[..bytes].to_vec();
                wrong[bytes - 1] ^= 1;
                assert!(!host.compare(0, &wrong).unwrap(), "the last of {bytes} differs");
            }
            for bytes in [lba as usize, 16384] {
                let mut new = vec![0; bytes];
                random.fill(&mut new);
                assert!(!host.compare_and_write(5, &new, &new).unwrap());
                let at = 5 * lba as usize;
                assert!(host.compare_and_write(5, &model[at..at + bytes], &new).unwrap());
                model[at..at + bytes].copy_from_slice(&new);
            }
            let longer = vec![0; 16384 + lba as usize];
            assert!(matches!(
                host.compare_and_write(0, &longer, &longer),
                Err(ClientError::Refused(RefusedWhy::Length))
            ));
            host.verify(0, host.namespace().blocks).unwrap();
            host.zeroes(1, 3, true).unwrap();
            host.deallocate(8, 2).unwrap();
            model[lba as usize..4 * lba as usize].fill(0);
            model[8 * lba as usize..10 * lba as usize].fill(0);
            host.disconnect().unwrap();
            assert!(target.stop() == model, "the volume differs");
        }
    }
}

#[test]
fn deep_queues_in_random_order_agree_with_a_model() {
    const SLOTS: usize = 32;
    let target = Target::start(512);
    let options = ConnectOptions {
        io_queues: 2,
        queue_depth: SLOTS as u16,
        data_digest: true,
        ..ConnectOptions::default()
    };
    let mut host = Initiator::connect(target.addr, NQN, &options).unwrap();
    assert_eq!(host.queues(), 2);
    // Each request in flight has a region of its own, so the order of concurrent requests does not matter.
    let region = VOLUME_BYTES as usize / (2 * SLOTS);
    let mut model = vec![0_u8; VOLUME_BYTES as usize];
    let mut random = Random(42);
    let mut idle: Vec<(u64, Vec<u8>)> =
        (0..2 * SLOTS as u64).map(|token| (token, vec![0; region])).collect();
    let mut reads = vec![None; 2 * SLOTS];
    let (mut submitted, mut ended) = (0, 0);
    while ended < 4000 {
        while submitted < 4000
            && let Some((token, mut buffer)) = idle.pop()
        {
            let place = token as usize * region;
            let sectors = 1 + random.below((region / 512) as u64 - 1);
            let first = random.below((region / 512) as u64 - sectors + 1);
            let (at, bytes) = (place + first as usize * 512, sectors as usize * 512);
            let (slba, queue) = (at as u64 / 512, token as usize % 2);
            if random.below(2) == 0 {
                random.fill(&mut model[at..at + bytes]);
                buffer[..bytes].copy_from_slice(&model[at..at + bytes]);
                reads[token as usize] = None;
                host.submit_write(queue, token, slba, sectors as u32, false, buffer).unwrap();
            } else {
                reads[token as usize] = Some(at..at + bytes);
                host.submit_read(queue, token, slba, sectors as u32, buffer).unwrap();
            }
            submitted += 1;
        }
        host.wait(Duration::from_secs(5), &mut |completion| {
            assert_eq!(completion.status, Status::SUCCESS);
            if let Some(range) = &reads[completion.token as usize] {
                assert!(completion.buffer[..range.len()] == model[range.clone()], "a read differs");
            }
            idle.push((completion.token, completion.buffer));
            ended += 1;
        })
        .unwrap();
    }
    host.disconnect().unwrap();
    assert!(target.stop() == model, "the volume differs");
}

#[test]
fn a_range_past_the_end_fails_and_the_connection_lives() {
    let target = Target::start(4096);
    let mut host = Initiator::connect(target.addr, NQN, &ConnectOptions::default()).unwrap();
    let end = host.namespace().blocks;
    let past = |result| match result {
        Err(ClientError::Failed { status, .. }) => status == Status::LBA_OUT_OF_RANGE,
        _ => false,
    };
    assert!(past(host.write(end, &[1; 4096])));
    assert!(past(host.write(end - 8, &[1; 64 << 10])));
    assert!(past(host.read(end - 1, &mut [0; 8192])));
    assert!(past(host.read(u64::MAX, &mut [0; 4096])));
    assert!(past(host.deallocate(end - 1, 2)));
    assert!(past(host.zeroes(end, 1, false)));
    host.write(end - 1, &[1; 4096]).unwrap();
    host.disconnect().unwrap();
    assert!(target.stop()[VOLUME_BYTES as usize - 4096..] == [1; 4096]);
}

#[test]
fn requests_that_cannot_be_sent_come_back_with_their_buffer() {
    let target = Target::start(4096);
    let options = ConnectOptions { queue_depth: 1, ..ConnectOptions::default() };
    let mut host = Initiator::connect(target.addr, NQN, &options).unwrap();
    let refused = host.submit_read(0, 0, 0, 2, vec![0; 4096]).unwrap_err();
    assert_eq!((refused.why, refused.buffer.len()), (RefusedWhy::Buffer, 4096));
    assert_eq!(host.submit_read(1, 0, 0, 1, vec![0; 4096]).unwrap_err().why, RefusedWhy::NoQueue);
    assert_eq!(
        host.submit_read(0, 0, 0, 257, vec![0; 2 << 20]).unwrap_err().why,
        RefusedWhy::Length
    );
    assert_eq!(host.submit_read(0, 0, 0, 0, Vec::new()).unwrap_err().why, RefusedWhy::Length);
    host.submit_read(0, 0, 0, 1, vec![0; 4096]).unwrap();
    assert_eq!(host.submit_flush(0, 0).unwrap_err().why, RefusedWhy::Full);
    assert!(!host.use_namespace(2));
}

#[test]
fn connecting_is_refused_in_words() {
    let target = Target::start(4096);
    let wrong = Initiator::connect(
        target.addr,
        "nqn.2014-08.org.example:other",
        &ConnectOptions::default(),
    )
    .err()
    .unwrap();
    assert!(wrong.to_string().contains("connect: invalid parameters"), "{wrong}");
    let options = ConnectOptions { host_nqn: "a b".into(), ..ConnectOptions::default() };
    assert!(matches!(Initiator::connect(target.addr, NQN, &options), Err(ClientError::BadName)));
    let options = ConnectOptions { keep_alive: Duration::ZERO, ..ConnectOptions::default() };
    match Initiator::connect(target.addr, NQN, &options) {
        Err(ClientError::Failed { status, .. }) => assert_eq!(status, Status::KEEP_ALIVE_INVALID),
        _ => panic!("a controller without keep-alive was granted"),
    }
}

#[test]
fn waiting_keeps_the_controller_alive_and_silence_loses_it() {
    let target = Target::start(4096);
    let options =
        ConnectOptions { keep_alive: Duration::from_millis(1000), ..ConnectOptions::default() };
    let mut host = Initiator::connect(target.addr, NQN, &options).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2500) {
        host.wait(Duration::from_millis(200), &mut |_| {}).unwrap();
    }
    host.write(0, &[7; 4096]).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(host.write(0, &[8; 4096]).is_err());
}
