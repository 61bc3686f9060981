//! As much of Thrift's compact protocol as it takes to see, before a Parquet file is decoded, what its pages and its schema
//! claim to be. Reads slices only and allocates nothing. Start reading with [`page`] and [`nesting`].

/// How deep a value that is passed over may be nested.
const DEPTH: usize = 64;

const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;

/// What the header of a page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// 0 holds data, 1 an index, 2 a dictionary, 3 data of the second version.
    pub kind: i64,
    /// Bytes when decompressed.
    pub plain_bytes: i64,
    /// Bytes in the file.
    pub stored_bytes: i64,
    /// Values, missing ones included.
    pub values: i64,
    /// How the values are written.
    pub encoding: i64,
    /// Bytes of the levels that precede the values of a page of the second version and are never compressed.
    pub level_bytes: i64,
    /// Bytes of the header itself.
    pub header_bytes: usize,
}

/// Reads the header of a page; `None` when the bytes are none.
pub(super) fn page(bytes: &[u8]) -> Option<Page> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut page = Page { kind: -1, plain_bytes: -1, stored_bytes: -1, ..Page::default() };
    cursor.each_field(|cursor, id, kind| {
        match (id, kind) {
            (1, 4..=6) => page.kind = cursor.int()?,
            (2, 4..=6) => page.plain_bytes = cursor.int()?,
            (3, 4..=6) => page.stored_bytes = cursor.int()?,
            (5 | 7 | 8, STRUCT) => {
                let encoding = if id == 8 { 4 } else { 2 };
                cursor.each_field(|cursor, inner, kind| {
                    match (inner, kind) {
                        (1, 4..=6) => page.values = cursor.int()?,
                        (inner, 4..=6) if inner == encoding => page.encoding = cursor.int()?,
                        (5 | 6, 4..=6) if id == 8 => page.level_bytes = page.level_bytes.saturating_add(cursor.int()?),
                        _ => cursor.skip(kind, DEPTH)?,
                    }
                    Some(())
                })?;
            }
            _ => cursor.skip(kind, DEPTH)?,
        }
        Some(())
    })?;
    page.header_bytes = cursor.at;
    Some(page)
}

/// How deep the columns of a footer are nested; `None` when it is no footer.
pub(super) fn nesting(footer: &[u8]) -> Option<usize> {
    let mut cursor = Cursor { bytes: footer, at: 0 };
    let mut deepest = 0;
    cursor.each_field(|cursor, id, kind| {
        if id != 2 {
            return cursor.skip(kind, DEPTH);
        }
        if kind != LIST {
            return None;
        }
        let (count, element) = cursor.list()?;
        if element != STRUCT && count > 0 {
            return None;
        }
        // How many children are still to come at each level.
        let mut open: Vec<i64> = Vec::new();
        for _ in 0..count {
            let mut children = 0;
            cursor.each_field(|cursor, id, kind| {
                if id == 5 && matches!(kind, 4..=6) {
                    children = cursor.int()?;
                    return Some(());
                }
                cursor.skip(kind, DEPTH)
            })?;
            if let Some(left) = open.last_mut() {
                *left = left.saturating_sub(1);
            }
            open.push(children);
            deepest = deepest.max(open.len());
            while open.last().is_some_and(|left| *left <= 0) {
                open.pop();
            }
        }
        Some(())
    })?;
    Some(deepest)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn pass(&mut self, count: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        self.at = (end <= self.bytes.len()).then_some(end)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A signed number, which is written with its sign in the last bit.
    fn int(&mut self) -> Option<i64> {
        let number = self.unsigned()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// The length and the type of the elements of a list.
    fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
        Some((count, head & 15))
    }

    /// Goes through the fields of a structure by number and type.
    fn each_field(&mut self, mut take: impl FnMut(&mut Self, i64, u8) -> Option<()>) -> Option<()> {
        let mut id = 0_i64;
        loop {
            let head = self.byte()?;
            let kind = head & 15;
            if kind == STOP {
                return Some(());
            }
            id = if head >> 4 == 0 { self.int()? } else { id.checked_add(i64::from(head >> 4))? };
            take(self, id, kind)?;
        }
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            TRUE | FALSE => Some(()),
            BYTE => self.pass(1),
            4..=6 => self.unsigned().map(|_| ()),
            DOUBLE => self.pass(8),
            BINARY => {
                let length = self.unsigned()?;
                self.pass(length)
            }
            LIST | SET => {
                let (count, element) = self.list()?;
                (0..count).try_for_each(|_| self.skip_element(element, depth))
            }
            MAP => {
                let count = self.unsigned()?;
                if count == 0 {
                    return Some(());
                }
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 15, depth)
                })
            }
            STRUCT => self.each_field(|cursor, _, kind| cursor.skip(kind, depth)),
            _ => None,
        }
    }

    /// In a list a truth value takes a byte of its own.
    fn skip_element(&mut self, kind: u8, depth: usize) -> Option<()> {
        if matches!(kind, TRUE | FALSE) { self.pass(1) } else { self.skip(kind, depth) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_header_of_a_page_is_read() {
        // Kind 0, 300 bytes of 20, a data header with 7 values, encoding 8 and one field that is passed over.
        let bytes = [0x15, 0, 0x15, 0xd8, 0x04, 0x15, 40, 0x2c, 0x15, 14, 0x15, 16, 0x18, 2, 9, 9, 0, 0, 77];
        let expected = Page {
            kind: 0,
            plain_bytes: 300,
            stored_bytes: 20,
            values: 7,
            encoding: 8,
            level_bytes: 0,
            header_bytes: 18,
        };
        assert_eq!(page(&bytes), Some(expected));
        for end in 0..18 {
            assert_eq!(page(&bytes[..end]), None, "{end}");
        }
    }

    #[test]
    fn nesting_is_counted_before_anything_recurses() {
        let footer = |depth: u8| {
            let mut bytes = vec![0x29, 0xfc, depth];
            (0..depth - 1).for_each(|_| bytes.extend([0x55, 2, 0]));
            bytes.extend([0, 0]);
            bytes
        };
        assert_eq!(nesting(&footer(100)), Some(100));
        assert_eq!(nesting(&footer(3)), Some(3));
        assert_eq!(nesting(&[0x29]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (page(&bytes), nesting(&bytes));
        }
    }
}
