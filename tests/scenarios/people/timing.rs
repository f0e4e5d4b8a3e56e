//! Whether the time of an answer tells a stranger who has an account. Only at full length
//! (`PATCHBAY_TEST_FULL=1`): it takes minutes, and needs a machine that does nothing else.

use rand::RngExt;

use super::*;
use crate::harness::full_length;

/// For each of the two kinds of address.
const TRIES: usize = 2_000;
const WARM_UP: usize = 100;
/// Chance would give a smaller value once in a hundred runs of one case.
const LEAST_P: f64 = 0.01;

/// The complementary error function, to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
fn erfc(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let powers = [
        0.254_829_592,
        -0.284_496_736,
        1.421_413_741,
        -1.453_152_027,
        1.061_405_429,
    ];
    let sum = powers
        .iter()
        .rev()
        .fold(0.0, |sum, factor| (sum + factor) * t);
    sum * (-x * x).exp()
}

/// How likely two samples of one distribution differ as much: Mann and Whitney's test, two-sided.
fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> = a.iter().map(|value| (*value, true)).collect();
    all.extend(b.iter().map(|value| (*value, false)));
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (mut ranks, mut at) = (0.0, 0);
    while at < all.len() {
        let ties = all[at..]
            .iter()
            .take_while(|one| one.0 == all[at].0)
            .count();
        let rank = at as f64 + (ties as f64 + 1.0) / 2.0;
        ranks += rank * all[at..at + ties].iter().filter(|one| one.1).count() as f64;
        at += ties;
    }
    let (n, m) = (a.len() as f64, b.len() as f64);
    let u = ranks - n * (n + 1.0) / 2.0;
    let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
    erfc(((u - n * m / 2.0) / deviation).abs() / std::f64::consts::SQRT_2)
}

fn median(sample: &[f64]) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
fn samples_of_one_distribution_differ_by_chance_and_shifted_ones_do_not() {
    let sample = |shift: f64| -> Vec<f64> {
        let mut rng = rand::rng();
        (0..TRIES).map(|_| rng.random::<f64>() + shift).collect()
    };
    assert!(mann_whitney(&sample(0.0), &sample(0.0)) > 1e-6);
    assert!(mann_whitney(&sample(0.0), &sample(0.1)) < 1e-6);
    assert!((erfc(0.0) - 1.0).abs() < 1e-6 && (erfc(1.0) - 0.157_299).abs() < 1e-5);
}

/// Milliseconds of one answer.
async fn timed(host: &Host, number: usize, path: &str, body: &Value) -> anyhow::Result<f64> {
    // Each from a network of its own, so that no limit answers.
    let network = format!(
        "10.{}.{}.{}",
        number >> 16,
        (number >> 8) & 255,
        number & 255
    );
    let request = host.http.post(host.url.clone() + path).json(body);
    let began = Instant::now();
    let response = request.header("x-forwarded-for", network).send().await?;
    let status = response.status().as_u16();
    let text = response.text().await?;
    let took = began.elapsed().as_secs_f64() * 1e3;
    anyhow::ensure!([200, 400, 401].contains(&status), "{status}: {text}");
    Ok(took)
}

/// Compares known with unknown addresses, in random order, and returns what is to be told.
async fn compared(
    host: &Host,
    (name, kind): (&str, &str),
    (path, body): (&str, &Value),
    numbers: &mut usize,
) -> anyhow::Result<(String, f64)> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for n in 0..WARM_UP + TRIES {
        let is_first = rand::rng().random::<bool>();
        for is_known in [is_first, !is_first] {
            let who = if is_known { "" } else { "unknown-" };
            let mut body = body.clone();
            body["email"] = json!(format!("{who}{kind}-{n}@example.com"));
            *numbers += 1;
            let took = timed(host, *numbers, path, &body).await?;
            let sample = if is_known { &mut known } else { &mut unknown };
            if n >= WARM_UP {
                sample.push(took);
            }
        }
    }
    let p = mann_whitney(&known, &unknown);
    let (known, unknown) = (median(&known), median(&unknown));
    let told = format!("| {name} | {known:.3} ms | {unknown:.3} ms | {p:.3} |");
    println!("{told}");
    Ok((told, p))
}

async fn accounts(world: &World, kind: &str, hash: &str) -> anyhow::Result<()> {
    let insert = "insert into users (email, password, \"isVerified\", stage) \
         select $1 || '-' || n || '@example.com', $2, true, 3 from generate_series(0, $3) n";
    sqlx::query(insert)
        .bind(kind)
        .bind(hash)
        .bind(i32::try_from(WARM_UP + TRIES)?)
        .execute(&mut world.database().await?)
        .await?;
    Ok(())
}

#[tokio::test]
async fn refused_logins_and_answers_about_codes_leave_at_a_step_and_logins_at_once()
-> anyhow::Result<()> {
    const STEP: Duration = Duration::from_millis(3_000);
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    drop(host);
    let step = STEP.as_millis().to_string();
    let host = world
        .host(&with(&[("PATCHBAY_PEOPLE_ANSWER_STEP_MS", step.as_str())]))
        .await?;
    let took = async |path: &str, body: Value| -> anyhow::Result<(u16, Duration)> {
        let began = Instant::now();
        let (status, _) = post(&host, path, body).await?;
        Ok((status, began.elapsed()))
    };
    let right = json!({ "email": "ada@example.com", "password": PASSWORD });
    let (status, time) = took("/api/auth/login", right).await?;
    assert!(status == 200 && time < STEP, "{status} after {time:?}");
    for email in ["ada@example.com", "nobody@example.com"] {
        let held = [
            ("/api/auth/login", json!({ "password": "a wrong one" }), 401),
            ("/api/auth/forgot-password", json!({}), 200),
            ("/api/auth/signup", json!({ "password": PASSWORD }), 200),
            ("/api/auth/verify-otp", json!({ "otp": "000000" }), 400),
            (
                "/api/auth/reset-password",
                json!({ "resetToken": "000000", "newPassword": "another one!" }),
                400,
            ),
        ];
        let all = held.map(|(path, mut body, expected)| {
            body["email"] = json!(email);
            let took = &took;
            async move { anyhow::Ok((path, expected, took(path, body).await?)) }
        });
        for answered in futures::future::join_all(all).await {
            let (path, expected, (status, time)) = answered?;
            assert_eq!(status, expected, "{path}");
            assert!(time >= STEP, "{path} of {email} left after {time:?}");
        }
    }
    let wrong = json!({ "name": "nobody", "password": "a wrong password" });
    let (status, time) = took("/api/admin/session", wrong).await?;
    assert!(status == 401 && time >= STEP, "{status} after {time:?}");
    Ok(())
}

#[tokio::test]
async fn times_do_not_tell_who_has_an_account() -> anyhow::Result<()> {
    if !full_length() {
        println!("only at full length");
        return Ok(());
    }
    let world = World::new().await?;
    let env = with(&[
        ("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8"),
        ("PATCHBAY_HTTP_ANONYMOUS_PER_MINUTE", "0"),
        // A tenth of the default: as many answers in a tenth of the time.
        ("PATCHBAY_PEOPLE_ANSWER_STEP_MS", "25"),
    ]);
    let host = world.host(&env).await?;
    verified(&world, &host, "ada@example.com").await?;
    let (hash,): (String,) = sqlx::query_as("select password from users")
        .fetch_one(&mut world.database().await?)
        .await?;
    accounts(&world, "argon2", &hash).await?;
    let wrong = json!({ "password": "a wrong password" });
    let code = json!({ "resetToken": "000000", "newPassword": "another one!" });
    let (mut table, mut numbers) = (Vec::new(), 0);
    for (name, path, body) in [
        ("login, argon2id", "/api/auth/login", &wrong),
        ("forgot-password", "/api/auth/forgot-password", &json!({})),
        ("reset-password", "/api/auth/reset-password", &code),
        (
            "verify-otp",
            "/api/auth/verify-otp",
            &json!({ "otp": "000000" }),
        ),
        (
            "signup",
            "/api/auth/signup",
            &json!({ "password": PASSWORD }),
        ),
    ] {
        let case = compared(&host, (name, "argon2"), (path, body), &mut numbers);
        table.push(case.await?);
    }
    // As the old backend's hashes are, which is what the host compares where there is none.
    accounts(&world, "bcrypt", &bcrypt_of_cost(PASSWORD, 10)).await?;
    drop(host);
    let host = world.host(&env).await?;
    let case = compared(
        &host,
        ("login, bcrypt", "bcrypt"),
        ("/api/auth/login", &wrong),
        &mut numbers,
    );
    table.push(case.await?);
    let lines: Vec<&str> = table.iter().map(|(line, _)| line.as_str()).collect();
    println!("{}", lines.join("\n"));
    for (line, p) in &table {
        assert!(*p > LEAST_P, "{line}\n{}", lines.join("\n"));
    }
    Ok(())
}
