//! Nothing per packet allocates: every allocation of a packet thread is counted from its fourth batch on, and there is none.

mod devices;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use devices::{Failure, Work};
use openmoat_engine::plan::{Framing, MtuPlan};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// The allocator of the system, which counts for each thread.
struct Counting;

// SAFETY: every call goes to the allocator of the system as it came; counting touches a `Cell` of the thread, which
// needs neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to the contract of this function, which is that of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; all memory is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn packets_in_either_direction_allocate_nothing() -> Result<(), Failure> {
    for (sas, burst) in [(1, 64), (100, 1)] {
        for size in [64, 1400] {
            assert_none(sas, size, burst, &MtuPlan::default())?;
        }
    }
    Ok(())
}

#[test]
fn packets_that_are_packed_sliced_and_put_together_allocate_nothing() -> Result<(), Failure> {
    let plan = MtuPlan {
        framing: Framing::Aggfrag,
        slices: true,
        ..MtuPlan::default()
    };
    for (sas, burst) in [(1, 64), (100, 1)] {
        for size in [64, 1500, 9_000] {
            assert_none(sas, size, burst, &plan)?;
        }
    }
    Ok(())
}

fn assert_none(sas: usize, size: usize, burst: usize, plan: &MtuPlan) -> Result<(), Failure> {
    let work = Work {
        sas,
        size,
        burst,
        packets: 40_000,
        // Every SA has carried something before it counts: what it needs from then on it has.
        warm_up: 3 + sas / 16,
        meter: allocations,
        plan: plan.clone(),
    };
    let (out, _) = work.run(false)?;
    let (_, back) = work.run(true)?;
    assert_eq!((out, back), (0, 0), "{sas} SAs, {size} octets, {plan:?}");
    Ok(())
}
