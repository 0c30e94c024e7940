//! What `tcp.rs` promises, over loopback sockets.

use super::*;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const MS: Nanos = Nanos::from_millis(1);

fn streams(connections_max: u16) -> (Arc<Arena>, TcpStreams, SocketAddr) {
    let arena = Arc::new(Arena::new(2 << 20, false).unwrap().0);
    let streams = TcpStreams::listen("127.0.0.1:0", Arc::clone(&arena), connections_max).unwrap();
    let address = streams.addresses().unwrap()[0];
    (arena, streams, address)
}

/// Polls until an event satisfies, or fails after five seconds; returns all that were seen.
fn until(streams: &mut TcpStreams, wanted: StreamEvent) -> Vec<StreamEvent> {
    let mut seen = Vec::new();
    let start = Instant::now();
    while !seen.contains(&wanted) {
        streams.poll(MS, &mut |event| seen.push(event));
        assert!(start.elapsed() < Duration::from_secs(5), "no {wanted:?}, only {seen:?}");
    }
    seen
}

fn connect(streams: &mut TcpStreams, address: SocketAddr) -> (TcpStream, StreamId) {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let start = Instant::now();
    let mut opened = None;
    while opened.is_none() {
        streams.poll(MS, &mut |event| {
            if let StreamEvent::Opened(id, _) = event {
                opened = Some(id);
            }
        });
        assert!(start.elapsed() < Duration::from_secs(5), "nobody connected");
    }
    (client, opened.unwrap())
}

fn quiet(streams: &mut TcpStreams) {
    for _ in 0..20 {
        streams.poll(MS, &mut |event| panic!("told again: {event:?}"));
    }
}

#[test]
fn bytes_land_in_the_arena_first_and_in_the_head_after() {
    let (arena, mut streams, address) = streams(4);
    let (mut client, id) = connect(&mut streams, address);
    assert_eq!(streams.peer(id), Some(client.local_addr().unwrap()));
    let mut head = [0; 8];
    assert_eq!(streams.receive(id, None, &mut head), Err(StreamStop::WouldBlock));

    client.write_all(b"payloadheader+").unwrap();
    until(&mut streams, StreamEvent::Readable(id));
    let span = Span::new(4096, 7);
    assert_eq!(streams.receive(id, Some(span), &mut head), Ok(14));
    assert_eq!(&*arena.bytes(span), b"payload");
    assert_eq!(&head[..7], b"header+");
    assert_eq!(arena.bytes(Span::new(4096, 8))[7], 0, "not a byte past the span");

    // Fewer bytes than there is room for: only the payload is begun.
    client.write_all(b"pay").unwrap();
    until(&mut streams, StreamEvent::Readable(id));
    assert_eq!(streams.receive(id, Some(Span::new(0, 7)), &mut head), Ok(3));
    assert_eq!(streams.receive(id, Some(Span::new(3, 4)), &mut head), Err(StreamStop::WouldBlock));
    assert_eq!(streams.receive(id, None, &mut []), Ok(0), "no room is no end of the stream");
}

#[test]
fn an_event_is_told_once() {
    let (_, mut streams, address) = streams(4);
    let (mut client, id) = connect(&mut streams, address);
    quiet(&mut streams);
    client.write_all(b"abc").unwrap();
    until(&mut streams, StreamEvent::Readable(id));
    quiet(&mut streams);
    // More bytes are a new event, though the old ones were not read.
    client.write_all(b"def").unwrap();
    until(&mut streams, StreamEvent::Readable(id));
    let mut head = [0; 16];
    assert_eq!(streams.receive(id, None, &mut head), Ok(6));
}

#[test]
fn pieces_arrive_in_order_and_a_full_socket_says_when_there_is_room() {
    let (arena, mut streams, address) = streams(4);
    let (mut client, id) = connect(&mut streams, address);
    arena.with_mut(Span::new(0, 1 << 20), |bytes| {
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = (n % 253) as u8;
        }
    });
    let pieces = [
        Piece::Bytes(b"head"),
        Piece::Bytes(b""),
        Piece::Span(Span::new(5, 3)),
        Piece::Span(Span::new(0, 0)),
        Piece::Bytes(b"tail"),
    ];
    assert_eq!(streams.send(id, &pieces), Ok(11));
    let mut small = [0; 11];
    client.read_exact(&mut small).unwrap();
    assert_eq!(&small, b"head\x05\x06\x07tail");
    assert_eq!(streams.send(id, &[Piece::Bytes(b"")]), Ok(0));

    // Fill the socket until it takes no more; the last sends are partial.
    let whole = Span::new(0, 1 << 20);
    let (mut sent, mut partial) = (0, false);
    let stopped = loop {
        let rest = whole.skip((sent % (1 << 20)) as u32);
        match streams.send(id, &[Piece::Span(rest)]) {
            Ok(count) => {
                partial |= count < rest.len as usize;
                sent += count;
            }
            Err(stop) => break stop,
        }
        assert!(sent < 1 << 30, "the socket takes everything");
    };
    assert_eq!(stopped, StreamStop::WouldBlock);
    assert!(partial, "no send was partial");
    quiet(&mut streams);

    let mut received = vec![0; sent];
    client.read_exact(&mut received).unwrap();
    assert!(received.iter().enumerate().all(|(n, &byte)| byte == ((n % (1 << 20)) % 253) as u8));
    let seen = until(&mut streams, StreamEvent::Writable(id));
    assert_eq!(seen, [StreamEvent::Writable(id)]);
    quiet(&mut streams);
}

#[test]
fn of_too_many_pieces_a_prefix_goes() {
    let (_, mut streams, address) = streams(4);
    let (mut client, id) = connect(&mut streams, address);
    let pieces = [Piece::Bytes(b"ab"); SEND_PIECES_MAX + 9];
    assert_eq!(streams.send(id, &pieces), Ok(2 * SEND_PIECES_MAX));
    let mut bytes = [0; 2 * SEND_PIECES_MAX];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes[2 * SEND_PIECES_MAX - 2..], b"ab");
}

#[test]
fn a_client_that_goes_is_noticed_and_its_id_serves_the_next() {
    let (_, mut streams, address) = streams(1);
    let (mut client, id) = connect(&mut streams, address);
    client.write_all(b"last words").unwrap();
    drop(client);
    until(&mut streams, StreamEvent::Readable(id));
    let mut head = [0; 64];
    // The end may arrive in an event of its own; the words come first in any case.
    assert_eq!(streams.receive(id, None, &mut head), Ok(10));
    let start = Instant::now();
    while streams.receive(id, None, &mut head) != Err(StreamStop::Closed) {
        assert!(start.elapsed() < Duration::from_secs(5), "the end of the stream is not seen");
        streams.poll(MS, &mut |_| ());
    }
    streams.close(id);
    assert_eq!(streams.receive(id, None, &mut head), Err(StreamStop::Closed));
    assert_eq!(streams.send(id, &[Piece::Bytes(b"x")]), Err(StreamStop::Closed));
    streams.close(id);
    assert_eq!(streams.open_count(), 0, "a second close frees nothing twice");

    let (mut next, again) = connect(&mut streams, address);
    assert_eq!(again, id);
    assert_eq!(streams.send(again, &[Piece::Bytes(b"hello")]), Ok(5));
    let mut bytes = [0; 5];
    next.read_exact(&mut bytes).unwrap();
}

#[test]
fn sending_to_a_client_that_reset_is_an_error_and_no_signal() {
    let (_, mut streams, address) = streams(1);
    let (client, id) = connect(&mut streams, address);
    // Unread bytes at its close make the client's kernel send RST.
    assert_eq!(streams.send(id, &[Piece::Bytes(b"unread")]), Ok(6));
    std::thread::sleep(Duration::from_millis(20));
    drop(client);
    until(&mut streams, StreamEvent::Readable(id));
    let start = Instant::now();
    while streams.send(id, &[Piece::Bytes(b"more")]) != Err(StreamStop::Closed) {
        assert!(start.elapsed() < Duration::from_secs(5), "the reset is not seen");
    }
    assert_eq!(streams.receive(id, None, &mut [0; 8]), Err(StreamStop::Closed));
}

#[test]
fn one_connection_too_many_is_closed_at_once() {
    let (_, mut streams, address) = streams(2);
    let (_first, one) = connect(&mut streams, address);
    let (_second, two) = connect(&mut streams, address);
    assert_ne!(one, two);
    let mut third = TcpStream::connect(address).unwrap();
    third.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let start = Instant::now();
    while streams.refused_count() == 0 {
        streams.poll(MS, &mut |event| panic!("{event:?} for a connection too many"));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    assert_eq!(third.read(&mut [0; 1]).unwrap_or(0), 0, "it is still open");
    assert_eq!(streams.open_count(), 2);
    streams.close(one);
    let (_fourth, again) = connect(&mut streams, address);
    assert_eq!(again, one);
}

#[test]
fn last_words_survive_a_close_over_unread_bytes() {
    let (_, mut streams, address) = streams(1);
    let (mut client, id) = connect(&mut streams, address);
    client.write_all(&vec![7; 200_000]).unwrap();
    until(&mut streams, StreamEvent::Readable(id));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(streams.send(id, &[Piece::Bytes(b"because")]), Ok(7));
    streams.close(id);
    let mut words = Vec::new();
    client.read_to_end(&mut words).unwrap();
    assert_eq!(words, b"because");
}

#[test]
fn a_wait_ends_by_time_by_a_socket_or_by_a_watched_descriptor() {
    let (_, mut streams, address) = streams(2);
    let start = Instant::now();
    streams.poll(Nanos::from_micros(3000), &mut |event| panic!("{event:?}"));
    let waited = start.elapsed();
    assert!(waited >= Duration::from_micros(2900), "{waited:?}");
    streams.poll(Nanos::ZERO, &mut |event| panic!("{event:?}"));

    let (reader, mut writer) = std::io::pipe().unwrap();
    streams.watch(reader.as_raw_fd()).unwrap();
    let feeder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        writer.write_all(b"x").unwrap();
        writer
    });
    let start = Instant::now();
    streams.poll(Nanos::from_millis(5000), &mut |event| panic!("{event:?}"));
    let waited = start.elapsed();
    assert!(waited >= Duration::from_millis(20) && waited < Duration::from_secs(4), "{waited:?}");
    let _writer = feeder.join().unwrap();
    drop(reader);

    let dialler = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        TcpStream::connect(address).unwrap()
    });
    let start = Instant::now();
    let mut opened = 0;
    streams.poll(Nanos::from_millis(5000), &mut |_| opened += 1);
    assert_eq!(opened, 1);
    assert!(start.elapsed() < Duration::from_secs(4));
    drop(dialler.join().unwrap());
}

#[test]
fn an_address_in_use_is_refused_and_a_closed_one_is_free_at_once() {
    let (arena, mut streams, address) = streams(1);
    let taken = TcpStreams::listen(address, Arc::clone(&arena), 1);
    assert_eq!(taken.err().unwrap().kind(), io::ErrorKind::AddrInUse);
    let (client, id) = connect(&mut streams, address);
    streams.close(id);
    drop(streams);
    // The closed connection is in TIME_WAIT on our side now.
    let again = TcpStreams::listen(address, arena, 1).unwrap();
    assert_eq!(again.addresses().unwrap(), [address]);
    drop(client);
}
