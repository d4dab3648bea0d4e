//! Entry points for the fuzz targets in `tests/fuzz`; compiled only for fuzzing.

use super::api;
use super::grpc;
use super::http2::Http2Exchange;

/// Feeds an exchange with what a peer sends, in pieces as long as the first byte says, and reads the answer.
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
