"""The ledger's tables, for both databases. What exists is left as it is: a changed table needs another name."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    key TEXT PRIMARY KEY, endpoint TEXT NOT NULL, request BYTEA NOT NULL, answer BYTEA NOT NULL,
    finish_reason TEXT NOT NULL, prompt_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL, model TEXT NOT NULL,
    cost DOUBLE PRECISION, run TEXT NOT NULL, day TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS completions_totals
    ON completions (run, endpoint, day, prompt_tokens, completion_tokens, cost);
CREATE TABLE IF NOT EXISTS failures (
    key TEXT NOT NULL, run TEXT NOT NULL, day TEXT NOT NULL, reason TEXT NOT NULL, endpoint TEXT NOT NULL,
    request BYTEA NOT NULL, detail TEXT NOT NULL, count BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL, cost DOUBLE PRECISION, PRIMARY KEY (key, run, day, reason));
CREATE TABLE IF NOT EXISTS owners (
    owner TEXT PRIMARY KEY, machine TEXT NOT NULL, pid BIGINT NOT NULL, started DOUBLE PRECISION NOT NULL,
    beat DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS claims_by_owner ON claims (owner);
CREATE TABLE IF NOT EXISTS pools (pool TEXT NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (pool, owner));
CREATE TABLE IF NOT EXISTS credit (
    owner TEXT PRIMARY KEY, run TEXT NOT NULL, dollars DOUBLE PRECISION NOT NULL, tokens DOUBLE PRECISION NOT NULL,
    lost_dollars DOUBLE PRECISION NOT NULL, lost_tokens DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, run TEXT NOT NULL, owner TEXT NOT NULL, remote TEXT,
    state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_places (batch TEXT PRIMARY KEY, place TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_creations (
    batch TEXT PRIMARY KEY, input_file TEXT NOT NULL, asked_at DOUBLE PRECISION NOT NULL);
CREATE TABLE IF NOT EXISTS batch_lines (
    batch TEXT NOT NULL, key TEXT NOT NULL, request BYTEA NOT NULL, tries BIGINT NOT NULL, first TEXT,
    dollars DOUBLE PRECISION NOT NULL, tokens DOUBLE PRECISION NOT NULL, PRIMARY KEY (batch, key));
CREATE INDEX IF NOT EXISTS batch_lines_by_key ON batch_lines (key)
"""
