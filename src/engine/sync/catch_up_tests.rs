//! What a CP brings against the map it comes from.

use super::*;

fn map(blocks: &[(u16, u64)]) -> OutOfSync {
    let mut map = OutOfSync::new(&[80_000 * 8, 1000 * 8, 1000 * 8]);
    blocks.iter().for_each(|(volume, block)| map.set(VolumeId::new(*volume), *block));
    map
}

const BLOCKS: [(u16, u64); 8] =
    [(0, 3), (0, 4), (0, 5), (0, 999), (0, 70_000), (1, 0), (2, 0), (2, 1)];

fn run(volume: u16, first_block: u64, blocks: u32, first_page: u32) -> BroughtRun {
    BroughtRun { volume: VolumeId::new(volume), first_block, blocks, first_page }
}

#[test]
fn the_lowest_blocks_are_taken_with_staging_pages_in_order() {
    let map = map(&BLOCKS);
    let mut catch_up = CatchUp::new(7);
    assert_eq!(catch_up.begin(&map), 7);
    let taken: Vec<_> =
        (0..7).filter_map(|n| catch_up.get(n)).map(|b| (b.volume.get(), b.block)).collect();
    assert_eq!(taken, BLOCKS[..7]);
    assert_eq!(catch_up.get(7), None);
    for (page, (volume, block)) in BLOCKS[..7].iter().enumerate() {
        assert_eq!(catch_up.page_of(VolumeId::new(*volume), *block), Some(page as u32));
    }
    assert_eq!(catch_up.page_of(VolumeId::new(0), 6), None);
    assert_eq!(catch_up.page_of(VolumeId::new(2), 1), None);
    assert_eq!(catch_up.begin(&map), 7, "the same again");
    let mut wide = CatchUp::new(100);
    assert_eq!(wide.begin(&map), 8);
    wide.clear();
    assert!(wide.is_empty());
}

#[test]
fn runs_join_neighbours_of_one_volume_up_to_the_length_asked_for() {
    let mut catch_up = CatchUp::new(100);
    catch_up.begin(&map(&BLOCKS));
    let runs: Vec<_> = catch_up.runs(64).collect();
    assert_eq!(
        runs,
        [
            run(0, 3, 3, 0),
            run(0, 999, 1, 3),
            run(0, 70_000, 1, 4),
            run(1, 0, 1, 5),
            run(2, 0, 2, 6)
        ]
    );
    let short: Vec<_> = catch_up.runs(2).collect();
    assert_eq!(short[..2], [run(0, 3, 2, 0), run(0, 5, 1, 2)]);
    assert_eq!(short.iter().map(|run| run.blocks).sum::<u32>(), 8);
    assert_eq!(CatchUp::new(4).runs(64).count(), 0);
}

#[test]
fn exactly_what_was_brought_is_cleared_and_only_once() {
    let mut map = map(&BLOCKS);
    let mut catch_up = CatchUp::new(4);
    catch_up.begin(&map);
    catch_up.set_zero(1);
    assert_eq!(catch_up.get(1).map(|brought| brought.zero), Some(true));
    map.set(VolumeId::new(0), 0);
    catch_up.settle(&mut map);
    assert_eq!(map.blocks(), 5);
    assert!(map.contains(VolumeId::new(0), 0), "it was set after the CP began");
    assert!(!map.contains(VolumeId::new(0), 4));
    map.set(VolumeId::new(0), 4);
    catch_up.settle(&mut map);
    assert!(map.contains(VolumeId::new(0), 4), "MAP-2: set again since");
    catch_up.begin(&map);
    assert_eq!(catch_up.get(1).map(|brought| (brought.block, brought.zero)), Some((4, false)));
    let mut rounds = 0;
    while catch_up.begin(&map) > 0 {
        catch_up.settle(&mut map);
        rounds += 1;
    }
    assert_eq!((rounds, map.blocks()), (2, 0));
}
