//! A pair whose link speaks IPv6, or lies in a VLAN, or both.

use crate::common::{alone, folder};
use crate::link::links;
use crate::load::{Model, write_count};
use crate::node::{DESTINATION, Pair, SOURCE, VOLUME_BYTES, stop};

#[test]
fn a_pair_replicates_over_ipv6_and_in_a_vlan() {
    let _alone = alone();
    for link in links() {
        for (ends, vlan) in [
            (["[2001:db8::1]:4791", "[2001:db8::2]:4791"], Some(77)),
            (["[fe80::1]:4791", "[fe80::2]:4791"], None),
            (["192.0.2.1:4791", "192.0.2.2:4791"], Some(4094)),
        ] {
            let folder = folder();
            let mut pair = Pair::new(folder.path(), link);
            let ends = ends.map(|end| end.parse().unwrap());
            for (which, config) in pair.configs.iter_mut().enumerate() {
                config.link.local = ends[which];
                config.link.peer = ends[1 - which];
                config.link.vlan = vlan;
            }
            let [mut source, mut destination] = pair.start_both();
            let mut model = Model::new(VOLUME_BYTES, 4096);
            let mut initiator = pair.connect();
            write_count(&mut initiator, &mut model, 32, 1_000);
            initiator.disconnect().unwrap();
            for which in [SOURCE, DESTINATION] {
                let link = pair.status(which).link;
                assert_eq!((link.local, link.peer), (ends[which], ends[1 - which]));
            }
            let said = source.said();
            let line = said.lines().find(|line| line.contains("link over net_"));
            println!("{}", line.expect("the start says what the device does"));
            assert!(stop(&mut source).success());
            assert!(stop(&mut destination).success());
            pair.assert_identical(&mut model);
        }
    }
}
