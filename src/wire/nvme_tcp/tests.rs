//! What goes out comes back the same, short bytes are refused, and the numbers are the standard's.

use super::*;

#[test]
fn pdus_survive_the_wire() {
    let mut bytes = [0xff; IC_BYTES];
    let request = IcReq { pfv: 0, hpda: 31, dgst: dgst::HEADER | dgst::DATA, maxr2t: 7 };
    request.emit(&mut bytes);
    CommonHeader::plain(PduKind::IcReq).emit(&mut bytes);
    assert_eq!(IcReq::parse(&bytes), Ok(request));
    assert_eq!(CommonHeader::parse(&bytes).map(|h| (h.hlen, h.plen)), Ok((128, 128)));
    assert_eq!(bytes[16..], [0; 112]);

    let data = DataPdu { cccid: 0x1234, ttag: 0xfedc, datao: 0x0102_0304, datal: u32::MAX };
    data.emit(&mut bytes);
    assert_eq!(DataPdu::parse(&bytes), Ok(data));
    assert_eq!(bytes[8..16], [0x34, 0x12, 0xdc, 0xfe, 4, 3, 2, 1]);
    assert_eq!(DataPdu::parse(&bytes[..23]), Err(TooShort { needed: 24, given: 23 }));
}

#[test]
fn fatal_errors_survive_the_wire_and_unknown_ones_are_refused() {
    for fatal in [
        FatalError::HeaderField(4),
        FatalError::Sequence,
        FatalError::HeaderDigest(0xdead_beef),
        FatalError::OutOfRange,
        FatalError::LimitExceeded,
        FatalError::Unsupported(8),
    ] {
        let mut bytes = [0; SHORT_BYTES];
        TermReq { fes: fatal.fes(), fei: fatal.fei() }.emit(&mut bytes);
        assert_eq!(FatalError::from_term(TermReq::parse(&bytes).unwrap()), Some(fatal));
    }
    assert_eq!(FatalError::from_term(TermReq { fes: 0, fei: 0 }), None);
    assert_eq!(FatalError::from_term(TermReq { fes: 7, fei: 0 }), None);
}

#[test]
fn only_the_standards_pdu_kinds_exist() {
    let known: [u8; 9] = [0, 1, 2, 3, 4, 5, 6, 7, 9];
    for raw in 0..=255 {
        assert_eq!(PduKind::new(raw).map(|kind| kind as u8), known.contains(&raw).then_some(raw));
    }
}

#[test]
fn commands_survive_the_wire() {
    let mut bytes = [0; Sqe::BYTES];
    let io = Io { slba: 0x1_2345_6789, blocks: 65536, fua: true };
    let mut sqe = io.emit(opcode::WRITE, 77, 3);
    sqe.sgl = Sgl::in_capsule(8192);
    sqe.emit(&mut bytes);
    let back = Sqe::parse(&bytes).unwrap();
    assert_eq!(back, sqe);
    assert_eq!(Io::parse(&back), io);
    assert_eq!(bytes[39], 0x01);
    assert!(back.uses_sgl());
    assert_eq!(back.fuse(), Fuse::Not);
    assert!(write_zeroes_deallocates(&io.emit_zeroes(1, 1, true)));
    assert!(!write_zeroes_deallocates(&io.emit_zeroes(1, 1, false)));

    let connect =
        Connect { recfmt: 0, qid: 5, sqsize: 127, cattr: Connect::NO_FLOW_CONTROL, kato_ms: 5000 };
    connect.emit(9).emit(&mut bytes);
    assert_eq!(Connect::parse(&Sqe::parse(&bytes).unwrap()), connect);
    assert_eq!(bytes[44..46], [127, 0]);

    let set = PropertySet { wide: Some(false), offset: property::CC, value: Cc::ENABLED.0.into() };
    assert_eq!(PropertySet::parse(&set.emit(1)), set);
    let log = GetLogPage {
        lid: log_page::DISCOVERY,
        bytes: 4 << 32,
        offset: 1 << 40,
        by_index: false,
        retain: true,
        specific: 0x55,
        csi: 2,
        nsid: 7,
    };
    assert_eq!(GetLogPage::parse(&log.emit(1)), log);
    // NUMDL is bits 31:16, RAE bit 15, LSP bits 14:8, LID bits 7:0.
    assert_eq!(log.emit(1).cdw10, 0xffff_d570);
    let log = GetLogPage { by_index: true, ..GetLogPage::of(log_page::ANA, 4096) };
    assert_eq!(GetLogPage::parse(&log.emit(1)), log);
    let identify = Identify { cns: cns::COMMAND_SETS, csi: 2, nsid: 9, cntid: 0x1234 };
    assert_eq!(Identify::parse(&identify.emit(1)), identify);
    let dsm = Deallocate { ranges: 256, deallocate: true };
    assert_eq!(Deallocate::parse(&dsm.emit(1, 1)), dsm);
    let set = SetFeatures { fid: feature::QUEUES, save: true, value: 0x0007_0007 };
    assert_eq!(SetFeatures::parse(&set.emit(1)), set);
    let get = GetFeatures { fid: feature::TEMPERATURE, select: 3, value: 1 << 20 };
    assert_eq!(GetFeatures::parse(&get.emit(1)), get);
}

#[test]
fn completions_carry_type_code_and_retry() {
    let mut bytes = [0; Cqe::BYTES];
    let cqe = Cqe {
        result: 0x1_0000_0100,
        sqhd: 9,
        sqid: 0,
        cid: 0xffff,
        status: Status::CONNECT_INVALID_PARAMETERS,
    };
    cqe.emit(&mut bytes);
    assert_eq!(Cqe::parse(&bytes), Ok(cqe));
    // DNR is bit 15, SCT bits 11:9, SC bits 8:1.
    assert_eq!(bytes[14..16], (0x8000_u16 | 1 << 9 | 0x82 << 1).to_le_bytes());
    assert!(!Status::TRANSIENT_TRANSPORT_ERROR.is_final());
    assert_eq!(Status::LBA_OUT_OF_RANGE.to_string_in(&mut [0; 64]), "0/80h LBA out of range");
    assert_eq!(
        ConnectRefusal::parse(ConnectRefusal { ipo: 512, in_data: true }.emit()),
        ConnectRefusal { ipo: 512, in_data: true }
    );
}

impl Status {
    fn to_string_in(self, space: &mut [u8; 64]) -> &str {
        struct Into<'a>(&'a mut [u8; 64], usize);
        impl core::fmt::Write for Into<'_> {
            fn write_str(&mut self, text: &str) -> core::fmt::Result {
                self.0[self.1..self.1 + text.len()].copy_from_slice(text.as_bytes());
                self.1 += text.len();
                Ok(())
            }
        }
        let mut into = Into(space, 0);
        core::fmt::write(&mut into, format_args!("{self}")).unwrap();
        let len = into.1;
        core::str::from_utf8(&space[..len]).unwrap()
    }
}

#[test]
fn names_are_taken_only_when_they_are_names() {
    let good = put_nqn("nqn.2014-08.org.example:disk").unwrap();
    assert_eq!(nqn_of(&good), Some("nqn.2014-08.org.example:disk"));
    assert_eq!(nqn_of(&[0; 256]), None);
    assert_eq!(nqn_of(&[b'a'; 256]), None);
    let mut long = [0; 256];
    long[..NQN_BYTES_MAX].fill(b'n');
    assert!(nqn_of(&long).is_some());
    long[NQN_BYTES_MAX] = b'n';
    assert_eq!(nqn_of(&long), None);
    for bad in [0x1b, b' ', 0x7f, 0xff] {
        let mut field = good;
        field[3] = bad;
        assert_eq!(nqn_of(&field), None);
    }
}

#[test]
fn the_digest_is_crc32c() {
    // The check value of the CRC catalogue, and RFC 3720 B.4's 32 zero bytes.
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    let mut pieces = Crc32c::new();
    pieces.update(b"1234");
    pieces.update(b"56789");
    assert_eq!(pieces.finish(), 0xe306_9283);
}

#[test]
fn namespace_descriptors_survive_and_a_broken_list_ends() {
    let id = NamespaceId { eui64: [5; 8], nguid: [7; 16], uuid: [9; 16] };
    let mut bytes = [0xee; IDENTIFY_BYTES];
    emit_descriptors(&id, &mut bytes);
    assert_eq!(parse_descriptors(&bytes), id);
    assert_eq!(parse_descriptors(&[0xff; IDENTIFY_BYTES]), NamespaceId::default());
    assert_eq!(emit_namespace_list(1..=2000, &mut bytes), 1024);
    assert_eq!(bytes[4092..], 1024_u32.to_le_bytes());
    assert_eq!(emit_controller_list([3, 0xffef].into_iter(), &mut bytes), 2);
    assert_eq!(bytes[..8], [2, 0, 3, 0, 0xef, 0xff, 0, 0]);
    assert_eq!(emit_controller_list(1.., &mut bytes), 2047);
    assert_eq!(bytes[4094..], 2047_u16.to_le_bytes());
}

#[test]
fn the_access_log_is_read_as_it_is_written_and_no_further() {
    let mut bytes = [0; AnaHeader::BYTES + 2 * (AnaGroup::BYTES + 4)];
    AnaHeader { changes: 9, groups: 2 }.emit(&mut bytes);
    for (place, (group, state)) in
        [(1, AnaState::Optimized), (7, AnaState::Inaccessible)].into_iter().enumerate()
    {
        let at = AnaHeader::BYTES + place * (AnaGroup::BYTES + 4);
        AnaGroup { group, namespaces: 1, changes: 9, state: state as u8 }.emit(&mut bytes[at..]);
        bytes[at + AnaGroup::BYTES] = group as u8;
    }
    let mut seen = [(0, None); 2];
    let mut count = 0;
    let changes = parse_ana(&bytes, |nsid, state| {
        seen[count] = (nsid, state);
        count += 1;
    });
    assert_eq!(changes, Ok(9));
    assert_eq!(seen, [(1, Some(AnaState::Optimized)), (7, Some(AnaState::Inaccessible))]);
    for len in 0..bytes.len() {
        assert!(parse_ana(&bytes[..len], |_, _| {}).is_err(), "{len}");
    }
    // A group that claims more namespaces than there are bytes, as many as can be said.
    bytes[AnaHeader::BYTES + 4..][..4].fill(0xff);
    assert!(parse_ana(&bytes, |_, _| panic!("there is none")).is_err());
    for code in 0..=255 {
        let known = matches!(code & 15, 1..=4 | 15);
        assert_eq!(AnaState::new(code).map(|state| state as u8), known.then_some(code & 15));
    }
}

#[test]
fn events_are_the_standards_dwords() {
    assert_eq!(AsyncEvent::ACCESS.emit(), 0x000c_0302);
    assert_eq!(AsyncEvent::TEMPERATURE.emit(), 0x0002_0101);
    for event in [AsyncEvent::ACCESS, AsyncEvent::TEMPERATURE] {
        assert_eq!(AsyncEvent::parse(event.emit()), event);
    }
}

#[test]
fn identify_data_survives_the_wire() {
    let mut bytes = [0; IDENTIFY_BYTES];
    let namespace = IdentifyNamespace {
        nsze: 1 << 33,
        ncap: 1 << 33,
        nuse: 1 << 33,
        nsfeat: 0x12,
        nlbaf: 0,
        flbas: 0,
        nmic: 1,
        dlfeat: 9,
        nawun: 2047,
        nawupf: 2047,
        nacwu: 31,
        nabsn: 0,
        nabo: 0,
        nabspf: 0,
        npwg: 7,
        npwa: 7,
        npdg: 7,
        npda: 7,
        nows: 0,
        anagrpid: 3,
        nguid: [3; 16],
        eui64: [4; 8],
        lbaf0_metadata: 0,
        lbaf0_shift: 9,
    };
    namespace.emit(&mut bytes);
    assert_eq!(IdentifyNamespace::parse(&bytes), Ok(namespace));
    // LBADS is the third byte of format 0.
    assert_eq!((bytes[130], bytes[38]), (9, 31));
    assert!(IdentifyNamespace::parse(&bytes[..4095]).is_err());
}

#[test]
fn properties_survive_the_wire() {
    let cap = Cap { mqes: 127, timeout_500ms: 30 };
    assert_eq!(Cap::parse(cap.emit()), cap);
    for ready in [false, true] {
        for failed in [false, true] {
            for shut_down in [false, true] {
                let csts = Csts { ready, failed, shut_down };
                assert_eq!(Csts::parse(csts.emit()), csts);
            }
        }
    }
    assert!(Cc::ENABLED.enable());
    assert_eq!((Cc::ENABLED.sq_entry_shift(), Cc::ENABLED.cq_entry_shift()), (6, 4));
    assert_eq!(Cc::ENABLED.with_shutdown().shutdown(), 1);
    let range = DsmRange { attributes: 0, blocks: 8, slba: u64::MAX };
    let mut bytes = [0; 16];
    range.emit(&mut bytes);
    assert_eq!(DsmRange::parse(&bytes), Ok(range));
}
