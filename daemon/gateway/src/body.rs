//! Requests' bodies, within a limit of their own and a budget for all of them.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use protocol::{Code, Problem};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that all bodies together may take: one plugin of the largest size and a fair number of calls beside it.
const BUDGET: usize = 96 * 1024 * 1024;

/// The bytes that are left for bodies.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Semaphore>);

/// A body, and its share of the budget until it is dropped.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) bytes: Bytes,
    pub(crate) share: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET)))
    }

    /// Reads a body of at most `limit` bytes. Pays as it arrives: who announces much and sends nothing holds nothing.
    pub(crate) async fn collect(&self, headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Collected, Problem> {
        let too_large = || Problem::new(Code::TooLarge, format!("the body is over {limit} bytes"));
        if announced(headers).is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let (mut bytes, mut share) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Problem::new(Code::InvalidRequest, format!("the body broke off: {error}")))?;
            let Ok(part) = frame.into_data() else { continue };
            if part.len() > limit - bytes.len() {
                return Err(too_large());
            }
            self.pay(part.len(), &mut share)?;
            bytes.extend_from_slice(&part);
        }
        Ok(Collected { bytes: bytes.into(), share })
    }

    fn pay(&self, length: usize, share: &mut Option<OwnedSemaphorePermit>) -> Result<(), Problem> {
        let overloaded = || Problem::new(Code::Overloaded, "too many large requests are under way").hint("try again in a moment");
        let length = u32::try_from(length).map_err(|_| overloaded())?;
        let permit = Arc::clone(&self.0).try_acquire_many_owned(length).map_err(|_| overloaded())?;
        match share {
            Some(share) => share.merge(permit),
            None => *share = Some(permit),
        }
        Ok(())
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn collect(budget: &Budget, length: usize, limit: usize) -> Result<Collected, Problem> {
        budget.collect(&HeaderMap::new(), Body::from(vec![7; length]), limit).await
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let budget = Budget::new();
        assert_eq!(collect(&budget, 10, 10).await.expect("within").bytes.len(), 10);
        assert_eq!(collect(&budget, 11, 10).await.expect_err("over").code, Code::TooLarge);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, 11.into());
        assert_eq!(budget.collect(&headers, Body::empty(), 10).await.expect_err("announced").code, Code::TooLarge);
        assert_eq!(budget.0.available_permits(), BUDGET);
    }

    #[tokio::test]
    async fn all_bodies_share_one_budget_and_give_it_back() {
        let budget = Budget(Arc::new(Semaphore::new(100)));
        let first = collect(&budget, 60, 100).await.expect("first");
        assert_eq!(collect(&budget, 60, 100).await.expect_err("no room").code, Code::Overloaded);
        drop(first);
        assert_eq!(collect(&budget, 60, 100).await.expect("room").bytes.len(), 60);
        assert_eq!(budget.0.available_permits(), 100);
    }
}
