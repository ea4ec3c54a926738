//! Nothing per packet allocates: every allocation of a packet thread is counted from its fourth batch on, and there is none.

mod devices;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use devices::{Failure, Work};

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
            let work = Work {
                sas,
                size,
                burst,
                packets: 40_000,
                warm_up: 3,
                meter: allocations,
            };
            let (out, _) = work.run(false)?;
            let (_, back) = work.run(true)?;
            assert_eq!((out, back), (0, 0), "{sas} SAs, {size} octets");
        }
    }
    Ok(())
}
