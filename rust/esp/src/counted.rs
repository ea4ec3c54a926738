//! Names that are counted, each declared once: an enumeration with a word and a sentence for each row, and its counters.

/// Declare an enumeration whose rows have a word each, and a counter of each row. Python reads words and sentences from
/// here, so that a row is written nowhere else.
#[macro_export]
macro_rules! counted {
    (
        $(#[$enum_doc:meta])* pub enum $enum:ident;
        $(#[$set_doc:meta])* pub struct $set:ident;
        $($(#[doc = $doc:literal])+ $name:ident = $word:literal,)*
    ) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $enum { $($(#[doc = $doc])+ $name,)* }

        impl $enum {
            /// Every row, in the order of its counter.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word of its counter.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What it means.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc, "\n",)+),)* }
            }
        }

        $(#[$set_doc])*
        #[derive(Debug)]
        pub struct $set([::core::sync::atomic::AtomicU64; $enum::ALL.len()]);

        impl Default for $set {
            fn default() -> Self {
                Self([const { ::core::sync::atomic::AtomicU64::new(0) }; $enum::ALL.len()])
            }
        }

        impl $set {
            /// Count one.
            pub fn count(&self, row: $enum) {
                self.count_many(row, 1);
            }

            /// Count several at once.
            pub fn count_many(&self, row: $enum, more: u64) {
                self.count_first(row, more);
            }

            /// The same; answers whether they are the first.
            pub fn count_first(&self, row: $enum, more: u64) -> bool {
                self.0[row as usize].fetch_add(more, ::core::sync::atomic::Ordering::Relaxed) == 0
            }

            /// The same where one thread at a time counts: no exclusive access.
            pub fn count_alone(&self, row: $enum, more: u64) {
                let counter = &self.0[row as usize];
                let before = counter.load(::core::sync::atomic::Ordering::Relaxed);
                counter.store(before + more, ::core::sync::atomic::Ordering::Relaxed);
            }

            /// How many there were.
            pub fn read(&self, row: $enum) -> u64 {
                self.0[row as usize].load(::core::sync::atomic::Ordering::Relaxed)
            }

            /// The rows that have happened, with their counts.
            pub fn happened(&self) -> impl Iterator<Item = ($enum, u64)> + '_ {
                $enum::ALL
                    .iter()
                    .map(|&row| (row, self.read(row)))
                    .filter(|&(_, count)| count > 0)
            }
        }
    };
}
