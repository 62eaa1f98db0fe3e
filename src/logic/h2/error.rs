//! The error codes of HTTP/2 (RFC 9113 §7).

/// Why a stream or a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// Nothing is wrong.
    No = 0,
    /// The peer has broken the protocol.
    Protocol = 1,
    /// The server cannot go on.
    Internal = 2,
    /// The peer has sent more than its window allows, or made a window too large.
    FlowControl = 3,
    /// The peer has sent a frame on a stream that it has ended.
    StreamClosed = 5,
    /// A frame has a length that its kind does not allow.
    FrameSize = 6,
    /// The request was not looked at, and may be sent again.
    RefusedStream = 7,
    /// The stream is no longer needed.
    Cancel = 8,
    /// A block of fields cannot be decoded.
    Compression = 9,
    /// The peer makes too much work.
    EnhanceYourCalm = 11,
}
