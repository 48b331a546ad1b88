//! What the two are asked, and where their answers differ.

/// A pattern and the zones in which it is asked for, with spaces between them.
pub(crate) type Case = (&'static str, &'static str);

/// Times of the day, where the clock is changed.
pub(crate) const TIMES: &[Case] = &[
    (
        "30 2 * * *",
        "Europe/Berlin America/New_York Antarctica/Troll Pacific/Chatham Africa/Casablanca Asia/Kathmandu Pacific/Apia America/Nuuk Antarctica/Casey",
    ),
    (
        "0 0 * * *",
        "America/Sao_Paulo America/Santiago Asia/Beirut Africa/Cairo America/Havana Pacific/Apia Asia/Pyongyang America/Nuuk UTC",
    ),
    (
        "30 1 * * *",
        "Europe/Dublin America/New_York Australia/Lord_Howe Europe/London America/St_Johns Pacific/Norfolk",
    ),
    ("15 2 * * *", "Australia/Lord_Howe Pacific/Chatham"),
    ("45 1 * * *", "Australia/Lord_Howe"),
    ("30 23 * * *", "America/Sao_Paulo America/Ciudad_Juarez Africa/Juba America/Nuuk"),
    ("0 12 * * *", "Pacific/Apia Asia/Kathmandu Asia/Tehran"),
    (
        "0 * * * *",
        "Europe/Berlin Australia/Lord_Howe Africa/Casablanca Pacific/Apia Asia/Kathmandu America/Caracas Antarctica/Troll",
    ),
    ("*/30 * * * *", "Europe/Berlin Australia/Lord_Howe America/St_Johns Pacific/Chatham America/Nuuk"),
    ("* * * * *", "Europe/Berlin America/New_York Australia/Lord_Howe Africa/Monrovia Europe/Dublin"),
    ("*/7 * * * *", "Europe/Berlin America/Havana Pacific/Chatham"),
    ("*/25 */7 * * *", "Europe/Berlin Asia/Kathmandu America/Santiago"),
    ("7-59/13 * * * *", "America/New_York Africa/Cairo"),
    ("0 */5 * * *", "Europe/Berlin Australia/Lord_Howe UTC"),
    ("0 1-23/2 * * *", "Europe/Berlin America/New_York America/Nuuk"),
    ("0 */2 * * *", "Europe/Berlin Africa/Casablanca"),
    ("30 2,14 * * *", "Europe/Berlin America/New_York"),
    ("30 1,2 * * *", "America/New_York Europe/London"),
    ("0,30 2 * * *", "Europe/Berlin"),
    ("0 0,12 * * *", "America/Sao_Paulo Pacific/Apia"),
    ("15,45 0-3 * * *", "Europe/Berlin Australia/Lord_Howe"),
    ("0 22,23,0,1 * * *", "America/Sao_Paulo America/Nuuk"),
    ("17 */6 * * *", "Europe/Volgograd Asia/Pyongyang America/Caracas Africa/Juba"),
    ("0 0-5 * * *", "Antarctica/Casey Africa/Juba Europe/Lisbon"),
    ("50 0 * * *", "Asia/Pyongyang Africa/Monrovia America/Caracas"),
    ("10 0 * * *", "Asia/Kathmandu Africa/Monrovia"),
    ("0 2 * * *", "Europe/Berlin America/New_York Pacific/Norfolk"),
    ("0 3 * * *", "Europe/Berlin America/New_York"),
    ("59 1 * * *", "Europe/Berlin America/New_York"),
    ("59 2 * * *", "Europe/Berlin"),
    ("0 1 * * *", "Europe/London Antarctica/Troll"),
];

/// Days: of the month, of the week, both, and counted from the end.
pub(crate) const DAYS: &[Case] = &[
    ("0 9 * * MON-FRI", "Europe/Berlin Asia/Tehran America/St_Johns"),
    ("0 9 * * 1,3,5", "America/New_York"),
    ("0 0 * * 0", "Asia/Beirut America/Havana"),
    ("0 0 * * 7", "Europe/Berlin Asia/Kathmandu"),
    ("0 2 * * SUN", "Europe/Berlin America/New_York"),
    ("30 2 * * SUN", "Europe/Berlin"),
    ("0 6 * * SAT,SUN", "Australia/Lord_Howe"),
    ("0 6 * * 6-7", "Europe/Berlin"),
    ("0 6 * * 5-7", "UTC"),
    ("0 6 * * 0-7", "UTC"),
    ("0 6 * * 0-6", "Europe/Berlin"),
    ("0 6 * * */2", "UTC Asia/Kathmandu"),
    ("0 6 * * 1-5/2", "Europe/Berlin"),
    ("0 6 * * */3", "Pacific/Chatham"),
    ("0 0 1 * *", "Europe/Berlin America/Havana Asia/Pyongyang"),
    ("0 0 31 * *", "Europe/Berlin Pacific/Apia"),
    ("0 0 29,30,31 * *", "UTC America/Santiago"),
    ("0 12 30 * *", "Pacific/Apia"),
    ("5 4 */3 * *", "Europe/Berlin UTC"),
    ("5 4 */9 * *", "Asia/Kathmandu"),
    ("5 4 2-30/4 * *", "America/New_York"),
    ("0 0 1,15 * *", "America/Sao_Paulo"),
    ("0 0 29 2 *", "UTC Europe/Berlin"),
    ("0 0 29 2,3 *", "Europe/Berlin"),
    ("59 23 31 12 *", "Pacific/Apia UTC"),
    ("0 0 1 1 *", "Asia/Kathmandu America/Caracas"),
    ("0 3 * 3,10 *", "Europe/Berlin"),
    ("30 2 * MAR,OCT,NOV SUN", "Europe/Berlin America/New_York"),
    ("0 0 1 */5 *", "UTC Europe/Dublin"),
    ("0 0 1 2-12/3 *", "Europe/Berlin"),
    ("0 0 1 JAN-JUN/2 *", "America/New_York"),
    ("0 0 31 1-6 *", "Africa/Cairo"),
    ("0 0 13 * FRI", "Europe/Berlin Asia/Tehran"),
    ("0 0 1,15 * MON", "UTC America/Havana"),
    ("0 0 31 4 MON", "Europe/Berlin"),
    ("0 0 30 2 MON", "UTC"),
    ("0 0 29 2 MON", "UTC"),
    ("0 0 */2 * MON", "UTC Europe/Berlin"),
    ("0 0 */10 * */3", "UTC"),
    ("0 0 1-31 * MON", "UTC"),
    ("0 0 13 * 0-6", "UTC"),
    ("0 0 1-7 * SUN", "Europe/Berlin"),
    ("0 0 L * FRI", "UTC"),
    ("30 2 L * SUN", "Europe/Berlin"),
    ("0 0 13 * +FRI", "Europe/Berlin UTC"),
    ("0 0 1-7 * +SUN", "America/New_York"),
    ("0 0 29 2 +MON", "UTC"),
    ("0 0 L * +FRI", "Europe/Berlin"),
    ("0 0 */2 * +TUE", "Asia/Kathmandu"),
    ("0 0 L * *", "Europe/Berlin Pacific/Apia America/Sao_Paulo"),
    ("30 2 L 3,10 *", "Europe/Berlin"),
    ("0 0 L 2 *", "UTC"),
    ("0 0 15,L * *", "Africa/Casablanca"),
    ("0 12 15W * *", "Europe/Berlin UTC"),
    ("0 12 1W * *", "America/New_York"),
    ("0 12 28W * *", "Asia/Tehran"),
    ("0 12 31W * *", "UTC"),
    ("0 12 30W 1 *", "UTC"),
    ("0 0 * * 5L", "Europe/Berlin UTC"),
    ("30 2 * * 0L", "Europe/Berlin Europe/Lisbon"),
    ("0 0 * * 7L", "UTC"),
    ("0 0 * * 1L,5L", "America/St_Johns"),
    ("0 0 * * MON#1", "Europe/Berlin Asia/Kathmandu"),
    ("30 2 * * SUN#2", "America/New_York"),
    ("0 0 * * 2#5", "UTC Pacific/Chatham"),
    ("0 0 * * 1#1,3#3", "Europe/Berlin"),
    ("0 0 * * SAT#1,SUN#2", "America/Sao_Paulo"),
    ("0 0 * * 5#3,5L", "UTC"),
    ("0 0 * 1-3 4#5", "Europe/Dublin"),
    ("0 0 * 2 1#5", "UTC"),
    ("0 0 * * MON-WED#2", "Europe/Berlin"),
    ("0 0 13 * 5#2", "UTC"),
    ("0 12 15W * MON", "UTC"),
    ("0 0 5-5 * *", "UTC"),
    ("0 0 ? * MON", "Europe/Berlin"),
    ("0 0 1 * ?", "UTC"),
    ("0 0 31 3,5 *", "Asia/Gaza Africa/El_Aaiun"),
    ("0 0 * 4-9/3 TUE", "Asia/Gaza"),
    ("15 3 28-31 * *", "America/St_Johns"),
];

/// With seconds, and nicknames.
pub(crate) const OTHERS: &[Case] = &[
    ("59 59 23 L * *", "Europe/Berlin"),
    ("* * * * * *", "Europe/Berlin America/New_York"),
    ("*/17 * * * * *", "Europe/Berlin Australia/Lord_Howe"),
    ("0 30 2 * * *", "Europe/Berlin America/New_York"),
    ("15 30 2 * * *", "Europe/Berlin"),
    ("5,10 0 3 * * *", "Europe/Berlin"),
    ("*/20 */40 */11 * * *", "Asia/Kathmandu America/Havana"),
    ("59 59 23 * * *", "America/Sao_Paulo Pacific/Apia"),
    ("1 2 3 4 5 *", "Europe/Berlin"),
    ("30 0 0 1 JAN *", "Europe/Berlin"),
    ("0 0 12 ? * 2#1", "UTC"),
    ("@hourly", "Europe/Berlin"),
    ("@daily", "America/Sao_Paulo Asia/Beirut"),
    ("@weekly", "Asia/Tehran"),
    ("@monthly", "Pacific/Chatham"),
    ("@yearly", "Europe/Volgograd"),
    ("@annually", "UTC"),
];

/// Patterns that croniter writes otherwise.
pub(crate) const SPELLINGS: &[(&str, &str)] = &[
    ("0 0 * * 5L", "0 0 * * L5"),
    ("30 2 * * 0L", "30 2 * * L0"),
    ("0 0 * * 7L", "0 0 * * L7"),
    ("0 0 * * 1L,5L", "0 0 * * L1,L5"),
    ("0 0 * * 5#3,5L", "0 0 * * 5#3,L5"),
];

/// Patterns that croniter has no form for, and what it says.
pub(crate) const REFUSED: &[(&str, &str)] = &[
    ("0 0 * * 1,5#3", "CroniterUnsupportedSyntaxError"),
    ("0 12 1,15W * *", "CroniterBadCronError"),
    ("0 12 LW * *", "CroniterNotAlphaError"),
    ("0 0 * * 1-5#L", "CroniterNotAlphaError"),
    ("0 0 * * 1-5/2#2", "CroniterNotAlphaError"),
];

/// Besides the next changes of the clock from 2025 and 2039 on: changes of the rules, and moments before them.
pub(crate) const OLD_CHANGES: &[(&str, &str)] = &[
    ("Africa/Juba", "2021-01-31T12:00:00Z"),
    ("Africa/Monrovia", "1972-01-06T12:00:00Z"),
    ("America/Caracas", "2016-04-30T20:00:00Z"),
    ("America/Ciudad_Juarez", "2022-10-29T12:00:00Z"),
    ("America/Nuuk", "2023-10-28T12:00:00Z"),
    ("America/Sao_Paulo", "2018-11-03T20:00:00Z"),
    ("Antarctica/Casey", "2020-10-02T12:00:00Z"),
    ("Asia/Kathmandu", "1985-12-31T12:00:00Z"),
    ("Asia/Pyongyang", "2015-08-14T06:00:00Z"),
    ("Asia/Tehran", "2022-03-21T12:00:00Z"),
    ("Europe/Lisbon", "1996-03-30T12:00:00Z"),
    ("Europe/Volgograd", "2020-12-26T12:00:00Z"),
    ("Pacific/Apia", "2011-12-28T20:00:00Z"),
    ("Pacific/Norfolk", "2015-10-03T00:00:00Z"),
];

/// Why one of them has a tick that the other one has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// croniter has a fixed time that the clock shows twice twice. Ours comes once, as croner's and Vixie cron's do: a daily tick is
    /// daily.
    ComesOnce,
    /// croniter moves a recurring time that the clock leaves out to the end of the gap, unless the hour is `*`. Ours are croner's: a
    /// recurring one is left out, as others are near.
    IsLeftOut,
    /// croniter moves a fixed time out of the gap by whole minutes, ours comes at the first moment after it.
    ByTheMinute,
    /// croniter moves a fixed time to a day that the pattern does not match.
    OnAnotherDay,
    /// croniter takes the last day of a month for `31W` where there is no 31st, as no other cron does.
    InShortMonths,
    /// croniter wants both days to match where `#` or `W` is one of them. Ours are one rule for all day fields.
    OnEitherDay,
    /// croniter reads a range from a number to itself as `*`.
    OfOneNumber,
    /// Python's zoneinfo knows no time that the clock shows next to the zone's last listed change, at which nothing changed; so
    /// croniter leaves it out or moves it by half an hour.
    WithoutChange,
}
use Reason::{
    ByTheMinute, ComesOnce, InShortMonths, IsLeftOut, OfOneNumber, OnAnotherDay, OnEitherDay, WithoutChange,
};

/// A pattern, a zone, and for each reason how many ticks differ, over all moments that are asked for.
pub(crate) type Difference = (&'static str, &'static str, &'static [(Reason, usize)]);

/// Every pair whose answers differ.
pub(crate) const DIFFERENCES: &[Difference] = &[
    ("30 2 * * *", "Europe/Berlin", &[(ComesOnce, 9)]),
    ("30 2 * * *", "Antarctica/Troll", &[(ComesOnce, 9)]),
    ("30 2 * * *", "Africa/Casablanca", &[(ComesOnce, 3)]),
    ("30 2 * * *", "Antarctica/Casey", &[(ComesOnce, 1)]),
    ("0 0 * * *", "America/Havana", &[(ComesOnce, 7)]),
    ("30 1 * * *", "Europe/Dublin", &[(ComesOnce, 9)]),
    ("30 1 * * *", "America/New_York", &[(ComesOnce, 9)]),
    ("30 1 * * *", "Australia/Lord_Howe", &[(ComesOnce, 9)]),
    ("30 1 * * *", "Europe/London", &[(ComesOnce, 9)]),
    ("30 1 * * *", "America/St_Johns", &[(ComesOnce, 9)]),
    ("30 1 * * *", "Pacific/Norfolk", &[(ComesOnce, 1)]),
    ("45 1 * * *", "Australia/Lord_Howe", &[(ComesOnce, 9)]),
    ("30 23 * * *", "America/Sao_Paulo", &[(ComesOnce, 1)]),
    ("30 23 * * *", "America/Ciudad_Juarez", &[(ComesOnce, 1)]),
    ("30 23 * * *", "Africa/Juba", &[(ComesOnce, 1)]),
    ("30 23 * * *", "America/Nuuk", &[(ComesOnce, 11), (WithoutChange, 2)]),
    ("*/30 * * * *", "America/Nuuk", &[(WithoutChange, 1)]),
    ("*/25 */7 * * *", "Asia/Kathmandu", &[(IsLeftOut, 1)]),
    ("*/25 */7 * * *", "America/Santiago", &[(IsLeftOut, 1)]),
    ("0 1-23/2 * * *", "America/Nuuk", &[(IsLeftOut, 2)]),
    ("0 */2 * * *", "Europe/Berlin", &[(IsLeftOut, 2)]),
    ("0 */2 * * *", "Africa/Casablanca", &[(IsLeftOut, 2)]),
    ("30 2,14 * * *", "Europe/Berlin", &[(IsLeftOut, 5)]),
    ("30 2,14 * * *", "America/New_York", &[(IsLeftOut, 6)]),
    ("30 1,2 * * *", "America/New_York", &[(IsLeftOut, 6)]),
    ("30 1,2 * * *", "Europe/London", &[(IsLeftOut, 5)]),
    ("0,30 2 * * *", "Europe/Berlin", &[(IsLeftOut, 5)]),
    ("0 0,12 * * *", "America/Sao_Paulo", &[(IsLeftOut, 1)]),
    ("15,45 0-3 * * *", "Europe/Berlin", &[(IsLeftOut, 2)]),
    ("15,45 0-3 * * *", "Australia/Lord_Howe", &[(IsLeftOut, 1)]),
    ("0 0-5 * * *", "Antarctica/Casey", &[(IsLeftOut, 1)]),
    ("10 0 * * *", "Africa/Monrovia", &[(ByTheMinute, 2)]),
    ("0 2 * * *", "Europe/Berlin", &[(ComesOnce, 9)]),
    ("0 2 * * *", "Pacific/Norfolk", &[(ComesOnce, 9)]),
    ("59 1 * * *", "America/New_York", &[(ComesOnce, 9)]),
    ("59 2 * * *", "Europe/Berlin", &[(ComesOnce, 9)]),
    ("0 1 * * *", "Europe/London", &[(ComesOnce, 9)]),
    ("0 1 * * *", "Antarctica/Troll", &[(ComesOnce, 9)]),
    ("0 0 * * 0", "America/Havana", &[(ComesOnce, 55)]),
    ("0 2 * * SUN", "Europe/Berlin", &[(ComesOnce, 57)]),
    ("30 2 * * SUN", "Europe/Berlin", &[(ComesOnce, 57)]),
    ("0 0 1 * *", "America/Havana", &[(ComesOnce, 34)]),
    ("0 12 30 * *", "Pacific/Apia", &[(OnAnotherDay, 1)]),
    ("30 2 * MAR,OCT,NOV SUN", "Europe/Berlin", &[(ComesOnce, 213)]),
    ("0 0 1,15 * MON", "America/Havana", &[(ComesOnce, 4)]),
    ("30 2 L * SUN", "Europe/Berlin", &[(ComesOnce, 48)]),
    ("0 12 31W * *", "UTC", &[(InShortMonths, 834)]),
    ("30 2 * * 0L", "Europe/Berlin", &[(ComesOnce, 231)]),
    ("0 0 13 * 5#2", "UTC", &[(OnEitherDay, 922)]),
    ("0 12 15W * MON", "UTC", &[(OnEitherDay, 1606)]),
    ("0 0 5-5 * *", "UTC", &[(OfOneNumber, 1934)]),
    ("0 30 2 * * *", "Europe/Berlin", &[(ComesOnce, 9)]),
    ("15 30 2 * * *", "Europe/Berlin", &[(ComesOnce, 9), (ByTheMinute, 18)]),
    ("*/20 */40 */11 * * *", "Asia/Kathmandu", &[(IsLeftOut, 1)]),
    ("*/20 */40 */11 * * *", "America/Havana", &[(IsLeftOut, 2)]),
    ("59 59 23 * * *", "America/Sao_Paulo", &[(ComesOnce, 1)]),
    ("59 59 23 * * *", "Pacific/Apia", &[(ByTheMinute, 2)]),
];
