# SPDX-License-Identifier: GPL-3.0-or-later
# Evaluated by Supavisor before its server starts: creates this instance's tenant unless it exists. A tenant that exists
# is left alone, so a changed password or pool size needs the tenant to be removed first.

{:ok, _} = Application.ensure_all_started(:supavisor)

tenant_id = System.fetch_env!("POOLER_TENANT_ID")

if is_nil(Supavisor.Tenants.get_tenant_by_external_id(tenant_id)) do
  %{rows: [[banner]]} = Supavisor.Repo.query!("select version()")
  {:ok, server_version} = Supavisor.Helpers.parse_pg_version(banner)

  {:ok, _} =
    Supavisor.Tenants.create_tenant(%{
      "external_id" => tenant_id,
      "db_host" => System.fetch_env!("POSTGRES_HOST"),
      "db_port" => System.fetch_env!("POSTGRES_PORT"),
      "db_database" => System.fetch_env!("POSTGRES_DB"),
      "require_user" => false,
      "auth_query" => "SELECT * FROM pgbouncer.get_auth($1)",
      "default_max_clients" => System.fetch_env!("POOLER_MAX_CLIENT_CONN"),
      "default_pool_size" => System.fetch_env!("POOLER_DEFAULT_POOL_SIZE"),
      "default_parameter_status" => %{"server_version" => server_version},
      "users" => [
        %{
          "db_user" => "pgbouncer",
          "db_password" => System.fetch_env!("POSTGRES_PASSWORD"),
          "mode_type" => System.fetch_env!("POOLER_POOL_MODE"),
          "pool_size" => System.fetch_env!("POOLER_DEFAULT_POOL_SIZE"),
          "is_manager" => true
        }
      ]
    })
end
