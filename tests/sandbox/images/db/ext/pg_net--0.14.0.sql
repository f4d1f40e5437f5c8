-- Stand-in for pg_net: same functions, each call leaves a row in net.http_request_queue, nothing is ever sent.
create schema if not exists net;
create domain net.http_method as text check (value in ('GET', 'POST', 'DELETE'));
create table net.http_request_queue(
  id bigserial, method net.http_method not null, url text not null, headers jsonb, body bytea,
  timeout_milliseconds int not null);
create table net._http_response(
  id bigint, status_code int, content_type text, headers jsonb, content text, timed_out bool, error_msg text,
  created timestamptz not null default now());
create function net.http_get(
  url text, params jsonb default '{}', headers jsonb default '{}', timeout_milliseconds int default 5000)
  returns bigint language plpgsql as $$
declare request_id bigint;
begin
  insert into net.http_request_queue(method, url, headers, timeout_milliseconds)
    values ('GET', url, headers, timeout_milliseconds) returning id into request_id;
  return request_id;
end $$;
create function net.http_post(
  url text, body jsonb default '{}', params jsonb default '{}',
  headers jsonb default '{"Content-Type": "application/json"}', timeout_milliseconds int default 5000)
  returns bigint language plpgsql as $$
declare request_id bigint;
begin
  insert into net.http_request_queue(method, url, headers, body, timeout_milliseconds)
    values ('POST', url, headers, convert_to(body::text, 'UTF8'), timeout_milliseconds) returning id into request_id;
  return request_id;
end $$;
