//! What the application of a scenario has written, and where it has to be found.

use std::cell::RefCell;
use std::ops::Range;

pub const MIB: u64 = 1 << 20;

/// Every write of a scenario, in its order.
#[derive(Debug, Default)]
pub struct Written(RefCell<Vec<(String, Range<u64>)>>);

impl Written {
    /// The next write, of these MiB: the line of text that fills them, again and again. Its length divides all blocks.
    pub fn next(&self, tag: &str, mebibytes: Range<u64>) -> String {
        let mut writes = self.0.borrow_mut();
        writes.push((tag.to_owned(), mebibytes));
        line(tag, writes.len() - 1)
    }

    /// Panics unless the data is what was written, except for the writes in `lost`.
    pub fn check(&self, tag: &str, data: &[u8], lost: &[usize]) {
        let writes = self.0.borrow();
        let kept = writes.iter().enumerate();
        let kept = kept.filter(|(number, (of, _))| of == tag && !lost.contains(number));
        let kept: Vec<(usize, &Range<u64>)> =
            kept.map(|(number, write)| (number, &write.1)).collect();
        assert!(!kept.is_empty(), "nothing was written to {tag}");
        for mebibyte in 0..data.len() as u64 / MIB {
            let mut over = kept
                .iter()
                .rev()
                .filter(|write| write.1.contains(&mebibyte));
            let wanted = over.next().map(|(number, _)| line(tag, *number));
            let from = (mebibyte * MIB) as usize;
            let found = &data[from..from + MIB as usize];
            let right = match &wanted {
                Some(line) => found.chunks(LINE).all(|found| found == line.as_bytes()),
                None => found.iter().all(|byte| *byte == 0),
            };
            let begins = String::from_utf8_lossy(&found[..LINE]);
            assert!(
                right,
                "MiB {mebibyte} of {tag} begins with {begins:?}, wanted was {wanted:?}"
            );
        }
    }
}

/// Bytes of a line, its end included.
const LINE: usize = 32;

fn line(tag: &str, number: usize) -> String {
    let words = format!("write {number} to {tag}");
    format!("{words:<width$}\n", width = LINE - 1)
}
