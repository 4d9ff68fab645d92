//! Which of several providers is the best, in one pure function.

use std::time::Duration;

use rust_decimal::{Decimal, prelude::ToPrimitive as _};

/// What a round trip is taken for that nobody has measured.
const UNMEASURED: Duration = Duration::from_millis(80);
/// What being in another zone is worth: a link between sites, and its price.
const OTHER_ZONE: Duration = Duration::from_millis(20);
/// What each price above the cheapest is worth, for once as much again, and at most.
const DOUBLE_PRICE: Duration = Duration::from_millis(50);
const DEAREST: Duration = Duration::from_millis(500);

/// What is known of a provider.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) rtt: Option<Duration>,
    /// Of its places for calls, in percent.
    pub(super) load: u8,
    pub(super) zone: Option<&'a str>,
    pub(super) per_call: Decimal,
}

/// How good an offer is, as a time: the less the better.
///
/// The measured round trip, up to four times as much on a node that is fully loaded; more where the node is in another
/// zone than `zone`, and more where its price is above `cheapest`. A free offer beats a dear one at equal distance, a near
/// one beats a free one that is far.
pub(super) fn cost(offer: Offer<'_>, zone: Option<&str>, cheapest: Decimal) -> Duration {
    let load = f64::from(offer.load.min(100)) / 100.0;
    let near = offer.rtt.unwrap_or(UNMEASURED).max(Duration::from_micros(100)).mul_f64(1.0 + 3.0 * load * load);
    let elsewhere = if zone.is_some() && offer.zone != zone { OTHER_ZONE } else { Duration::ZERO };
    let over = if offer.per_call <= cheapest {
        0.0
    } else if cheapest.is_zero() {
        f64::INFINITY
    } else {
        // What overflows is dear beyond all measure.
        offer.per_call.checked_div(cheapest).and_then(|times| (times - Decimal::ONE).to_f64()).unwrap_or(10.0)
    };
    let price = if over.is_finite() { DOUBLE_PRICE.mul_f64(over.min(10.0)).min(DEAREST) } else { DOUBLE_PRICE };
    near + elsewhere + price
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Offer<'static> = Offer { rtt: Some(Duration::from_millis(10)), load: 0, zone: Some("eu-1"), per_call: Decimal::ONE };

    #[test]
    fn nearness_load_zone_and_price_count() {
        let rank = |offer| cost(offer, Some("eu-1"), Decimal::ONE);
        let worse = [
            Offer { rtt: Some(Duration::from_millis(30)), ..NEAR },
            Offer { load: 90, ..NEAR },
            Offer { zone: Some("us-1"), ..NEAR },
            Offer { zone: None, ..NEAR },
            Offer { per_call: Decimal::TWO, ..NEAR },
            Offer { rtt: None, ..NEAR },
        ];
        for offer in worse {
            assert!(rank(NEAR) < rank(offer), "{offer:?}");
        }
        // A loaded neighbour is still better than the other side of the world.
        assert!(rank(Offer { load: 100, ..NEAR }) < rank(Offer { rtt: Some(Duration::from_millis(200)), ..NEAR }));
    }

    #[test]
    fn extremes_stay_finite() {
        let dear = Offer { per_call: Decimal::MAX, load: 255, rtt: Some(Duration::from_secs(10)), ..NEAR };
        assert!(cost(dear, None, Decimal::ZERO) < Duration::from_secs(60));
        assert!(cost(dear, None, Decimal::new(1, 28)) < Duration::from_secs(60));
    }
}
