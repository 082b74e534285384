/** `webpack` keeps packages out of the bundle, as servers should; `webpack --env one` puts them in. */
export default ({ one = false }) => ({
  mode: one ? 'development' : 'production',
  devtool: false,
  target: 'node20',
  entry: './app.js',
  experiments: { outputModule: true },
  externals: one ? [] : [({ request }, done) => (/^[^./]/.test(request) ? done(null, `module ${request}`) : done())],
  output: { path: import.meta.dirname, filename: `${one ? 'one' : 'external'}/app.js`, library: { type: 'module' } },
});
