//! What can be odd about a message: the one list of reasons, for metrics, the log and the answer.

use std::fmt;

/// A class of oddities: a value of the label `reason`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Oddity {
    /// LF without CR, or CR without LF (RFC 9112 section 2.2).
    LineEnd,
    /// More than one empty line before a request.
    EmptyLines,
    /// The first line is not three parts, one space between them, or its version is no version.
    FirstLine,
    /// Another version of HTTP than 1.0 and 1.1.
    Version,
    /// A method that is neither registered with IANA nor allowed by `--allow-method`.
    Method,
    /// CONNECT, on a port that is HTTP.
    Connect,
    /// TRACE, which shows a client what proxies have added (RFC 9110 section 9.3.8), unless `--allow-method` has it;
    /// or with a body.
    Trace,
    /// Neither a path, nor an `http` URL, nor `OPTIONS *` (RFC 9112 section 3.2).
    TargetForm,
    /// The path has more than one meaning, or none (`route/path.rs`).
    Path,
    /// The target is too long.
    TargetLength,
    /// No host, several, or what is none (RFC 9112 section 3.2).
    Host,
    /// The target's authority is not the Host field's.
    Authority,
    /// A field's name is no token, or has a space before its colon (RFC 9112 section 5.1).
    FieldName,
    /// A field's name has an underscore.
    Underscore,
    /// A field's value has a control character (RFC 9110 section 5.5).
    FieldValue,
    /// A line begins with white space (RFC 9112 section 5.2).
    Fold,
    /// The head, or a field of it, is too long.
    HeadLength,
    /// Too many fields.
    FieldCount,
    /// Not one plain decimal number (RFC 9112 section 6.3).
    ContentLength,
    /// Not chunked, once and alone (RFC 9112 section 6.1).
    TransferEncoding,
    /// A transfer coding beside chunked.
    TransferCoding,
    /// Both Content-Length and Transfer-Encoding (RFC 9112 section 6.3).
    BothLengths,
    /// Connection is no list, or names a field that every hop needs (RFC 9110 section 7.6.1).
    Connection,
    /// An expectation other than 100-continue (RFC 9110 section 10.1.1).
    Expect,
    /// The framing of a chunked body (RFC 9112 section 7.1).
    Chunk,
    /// The trailer section of a chunked body.
    Trailer,
    /// An answer's status is none, or was not asked for.
    Status,
    /// Too many interim answers.
    Interim,
    /// More bytes than an answer has.
    Unasked,
    /// The PROXY header of a connection that must begin with one.
    ProxyHeader,
    /// What policies or routes decide by has more than one reading.
    Ambiguous,
}

impl Oddity {
    /// The label value.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::LineEnd => "line_end",
            Self::EmptyLines => "empty_lines",
            Self::FirstLine => "first_line",
            Self::Version => "version",
            Self::Method => "method",
            Self::Connect => "connect",
            Self::Trace => "trace",
            Self::TargetForm => "target_form",
            Self::Path => "path",
            Self::TargetLength => "target_length",
            Self::Host => "host",
            Self::Authority => "authority",
            Self::FieldName => "field_name",
            Self::Underscore => "underscore",
            Self::FieldValue => "field_value",
            Self::Fold => "fold",
            Self::HeadLength => "head_length",
            Self::FieldCount => "field_count",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::TransferCoding => "transfer_coding",
            Self::BothLengths => "both_lengths",
            Self::Connection => "connection",
            Self::Expect => "expect",
            Self::Chunk => "chunk",
            Self::Trailer => "trailer",
            Self::Status => "status",
            Self::Interim => "interim",
            Self::Unasked => "unasked",
            Self::ProxyHeader => "proxy_header",
            Self::Ambiguous => "ambiguous",
        }
    }

    /// What a client is answered; an endpoint's oddity is always a 502.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::Connect | Self::Trace => 405,
            Self::TargetLength => 414,
            Self::Expect => 417,
            Self::HeadLength | Self::FieldCount => 431,
            Self::Method | Self::TransferCoding => 501,
            Self::Version => 505,
            _ => 400,
        }
    }

    /// This oddity, in words.
    pub(crate) const fn because(self, why: &'static str) -> Refusal {
        Refusal { oddity: self, why }
    }
}

/// Why a message is not admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) oddity: Oddity,
    /// For the log.
    pub(crate) why: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oddity.label(), self.why)
    }
}
