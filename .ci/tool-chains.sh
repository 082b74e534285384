# What users run, bundle and install their apps with, each on the tarball. `.ci/run` sources this.

# chained <name> <file...>: a folder with the app of the ES modules project and what the tool chain adds to it.
chained() {
  local dir=$tmp/tool-chains/$1
  shift
  mkdir -p "$dir" && cp -R __tests__/consumers/esm/. "$dir" && cp -R "$@" "$dir" && echo "$dir"
}

# inside <folder> <command...>: on the Node that most tools are written for.
inside() {
  local dir=$1
  shift
  (cd "$dir" && on_node 24 "$@")
}

# answers <name> <folder> <app>: the app does what a consumer asks of it.
answers() { check "$1: the app answers, and leaves nothing behind" inside "$2" node "$project/__tests__/consumers/check.mjs" "$3"; }

# refused <name> <folder> <app>: the app is told that the package cannot be part of a bundle.
refused() { check "$1: is told to keep it out of the bundle" inside "$2" node refused.mjs "$3"; }

tool_chains() {
  local project=$PWD dir
  heading 'Tool chains, Node 24'
  dir=$(chained bundlers __tests__/consumers/{bundlers,vitest}/.)
  check 'Vitest and bundlers install' \
    install "$dir" "$tarball" express@5 vitest@5 esbuild@0.28 webpack@5 webpack-cli@7 @vercel/ncc@0.45
  check 'Vitest: functions, modules of TypeScript, refusals, a deadline' inside "$dir" npx --no vitest run

  check 'esbuild bundles all but packages' inside "$dir" npx --no -- \
    esbuild app.js tasks.js --bundle --platform=node --format=esm --packages=external --outdir=esbuild
  answers esbuild "$dir" esbuild/app.js
  check 'esbuild bundles all' inside "$dir" npx --no -- \
    esbuild app.js --bundle --platform=node --format=esm --outfile=esbuild/one.js \
    "--banner:js=import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);"
  refused esbuild "$dir" esbuild/one.js

  check 'webpack bundles all but packages' inside "$dir" npx --no webpack
  answers webpack "$dir" external/app.js
  check 'webpack bundles all' inside "$dir" npx --no -- webpack --env one
  refused webpack "$dir" one/app.js

  check 'ncc bundles all but two packages' inside "$dir" npx --no -- ncc build app.js -e express -e express-unblock -o ncc
  answers ncc "$dir" ncc/index.js
  check 'ncc bundles all' inside "$dir" npx --no -- ncc build app.js -o ncc-one
  refused ncc "$dir" ncc-one/index.js

  check 'Yarn and pnpm install' install "$tmp/tool-chains/managers" @yarnpkg/cli-dist@4 pnpm@10
  local managers=$tmp/tool-chains/managers/node_modules
  export YARN_NPM_REGISTRY_SERVER YARN_ENABLE_IMMUTABLE_INSTALLS=false
  YARN_NPM_REGISTRY_SERVER=$(npm config get registry)
  dir=$(chained yarn-pnp __tests__/consumers/yarn-pnp/.)
  touch "$dir/yarn.lock" # Without one, a folder above this could be the project.
  check 'Yarn Plug-n-Play installs' inside "$dir" node "$managers/@yarnpkg/cli-dist/bin/yarn.js" add "express@5" "express-unblock@file:$tarball"
  check 'Yarn Plug-n-Play: the app answers, and leaves nothing behind' inside "$dir" \
    node "$managers/@yarnpkg/cli-dist/bin/yarn.js" node "$project/__tests__/consumers/check.mjs" app.js
  dir=$(chained pnpm __tests__/consumers/esm/package.json)
  check 'pnpm installs' inside "$dir" node "$managers/pnpm/bin/pnpm.cjs" add express@5 "$tarball"
  answers pnpm "$dir" app.js
}
