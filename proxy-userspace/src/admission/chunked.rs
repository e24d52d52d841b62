//! The framing of chunked bodies (RFC 9112 section 7.1), as strictly as it is written there: a reader that is
//! more generous than the next one is how requests are smuggled.

use super::{
    Oddity, Refusal,
    head::{has_control, is_token},
};

/// Digits of a chunk's size.
const DIGITS_MAX: u8 = 16;
/// Bytes of chunk extensions in a body.
const EXTENSIONS_MAX: u16 = 1024;
/// The longest trailer section.
const TRAILER_MAX: usize = 8 * 1024;
/// Fields of one.
const TRAILER_FIELDS_MAX: u8 = 64;

/// A chunked body that is being read.
#[derive(Clone, Debug)]
pub(super) struct Chunked {
    at: At,
    size: u64,
    digits: u8,
    extensions: u16,
    trailer: Trailer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Size,
    Extension,
    SizeLineFeed,
    Data,
    DataReturn,
    DataLineFeed,
    Trailer,
}

/// The trailer section, which is dropped: only its syntax counts.
#[derive(Clone, Default, Debug)]
struct Trailer {
    line: Vec<u8>,
    length: usize,
    fields: u8,
}

impl Chunked {
    pub(super) const fn new() -> Self {
        let trailer = Trailer { line: Vec::new(), length: 0, fields: 0 };
        Self { at: At::Size, size: 0, digits: 0, extensions: 0, trailer }
    }

    /// Reads on; how many bytes were the body's, and whether it ends there.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), (usize, Refusal)> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.at == At::Data {
                let left = usize::try_from(self.size).unwrap_or(usize::MAX);
                let taken = left.min(bytes.len() - at);
                at += taken;
                self.size -= taken as u64;
                if self.size == 0 {
                    self.at = At::DataReturn;
                }
                continue;
            }
            match self.step(*byte) {
                Ok(ends) => {
                    at += 1;
                    if ends {
                        return Ok((at, true));
                    }
                }
                Err(refusal) => return Err((at, refusal)),
            }
        }
        Ok((at, false))
    }

    /// Reads a byte that is not data.
    fn step(&mut self, byte: u8) -> Result<bool, Refusal> {
        match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (At::Size, b';') if self.digits > 0 => self.at = At::Extension,
            (At::Size | At::Extension, b'\r') if self.digits > 0 => self.at = At::SizeLineFeed,
            (At::Size, _) => return Err(Oddity::Chunk.because("a chunk's size is no hexadecimal number")),
            (At::Extension, _) => self.extension(byte)?,
            (At::SizeLineFeed, b'\n') => {
                self.at = if self.size == 0 { At::Trailer } else { At::Data };
                self.digits = 0;
            }
            (At::DataReturn, b'\r') => self.at = At::DataLineFeed,
            (At::DataLineFeed, b'\n') => self.at = At::Size,
            (At::Trailer, _) => return self.trailer.step(byte),
            (At::SizeLineFeed | At::DataReturn | At::DataLineFeed | At::Data, _) => {
                return Err(Oddity::Chunk.because("a chunk does not end where it should"));
            }
        }
        Ok(false)
    }

    fn digit(&mut self, byte: u8) -> Result<(), Refusal> {
        let digit = char::from(byte).to_digit(16).unwrap_or_default();
        self.digits += 1;
        self.size = (self.size << 4) | u64::from(digit);
        if self.digits > DIGITS_MAX || self.size > i64::MAX as u64 {
            return Err(Oddity::Chunk.because("a chunk's size is too long"));
        }
        Ok(())
    }

    fn extension(&mut self, byte: u8) -> Result<(), Refusal> {
        self.extensions += 1;
        if self.extensions > EXTENSIONS_MAX {
            return Err(Oddity::Chunk.because("chunk extensions of more than 1 KiB"));
        }
        if has_control(&[byte]) {
            return Err(Oddity::Chunk.because("a chunk extension has a control character"));
        }
        Ok(())
    }
}

impl Trailer {
    /// Whether the section ends with this byte.
    fn step(&mut self, byte: u8) -> Result<bool, Refusal> {
        self.length += 1;
        if self.length > TRAILER_MAX {
            return Err(Oddity::Trailer.because("a trailer section of more than 8 KiB"));
        }
        if byte != b'\n' {
            if self.line.last() == Some(&b'\r') {
                return Err(Oddity::Trailer.because("CR without LF in a trailer section"));
            }
            self.line.push(byte);
            return Ok(false);
        }
        let Some(line) = self.line.strip_suffix(b"\r") else {
            return Err(Oddity::Trailer.because("LF without CR in a trailer section"));
        };
        if line.is_empty() {
            return Ok(true);
        }
        self.fields += 1;
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or_default();
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        if !is_token(name) || has_control(value) || self.fields > TRAILER_FIELDS_MAX {
            return Err(Oddity::Trailer.because("a trailer section that is none"));
        }
        self.line.clear();
        Ok(false)
    }
}
