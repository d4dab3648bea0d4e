//! Entry points for the fuzz targets in `tests/fuzz`; compiled only for fuzzing.

use super::http2::{HpackDecoder, Http2Exchange, Http2Response};
use super::{api, grpc, status};

/// Feeds an exchange with the bytes of a peer, in pieces as long as the first byte says, and reads the answer.
pub fn exchange(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let request = api::ImageStatusRequest::default();
    let mut exchange: Http2Exchange = grpc::exchange("/x", &request, None, 64 << 10);
    for part in bytes.chunks(usize::from(*piece).max(1)) {
        if exchange.receive(part).is_err() {
            return;
        }
        drop(exchange.take_output());
    }
    if let Some(response) = exchange.into_response() {
        let _: Result<api::ListImagesResponse, _> = grpc::message(response);
    }
}

/// Decodes header blocks of one connection, as long as the first byte says.
pub fn header_blocks(bytes: &[u8]) {
    const MAX: usize = 4096;
    let Some((length, bytes)) = bytes.split_first() else { return };
    let mut decoder = HpackDecoder::new(MAX);
    for block in bytes.chunks(usize::from(*length).max(1)) {
        let Ok(fields) = decoder.decode(block) else { return };
        assert!(fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= MAX);
    }
}

/// Reads the bytes as each message, and as the message of a status with the first byte as its code.
pub fn messages(bytes: &[u8]) {
    fn read<M: prost::Message + Default>(
        data: &[u8],
        trailers: [(&str, &[u8]); 2],
    ) -> Option<grpc::GrpcFailure> {
        let fields = |list: &[(&str, &[u8])]| {
            list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
        };
        let headers = fields(&[(":status", b"200"), ("content-type", b"application/grpc")]);
        grpc::message::<M>(Http2Response { headers, data: data.to_vec(), trailers: fields(&trailers) }).err()
    }
    let Some((code, message)) = bytes.split_first() else { return };
    let ok = [("grpc-status", &b"0"[..]), ("grpc-message", &b""[..])];
    let prefixed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
    let _ = read::<api::ListImagesResponse>(&prefixed, ok);
    let _ = read::<api::ImageFsInfoResponse>(&prefixed, ok);
    let _ = read::<api::VersionResponse>(&prefixed, ok);
    let code = code.to_string();
    if let Some(failure) =
        read::<api::VersionResponse>(&[], [("grpc-status", code.as_bytes()), ("grpc-message", message)])
    {
        let error = status::error(failure);
        assert!(!error.message().chars().any(char::is_control));
    }
}
