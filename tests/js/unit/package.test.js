/** What is shipped: types that name what the modules export, and a package whose files and version are right. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, readdirSync } from 'node:fs'
import { test } from 'node:test'

const home = new URL('../../../proxy/static/', import.meta.url)
const read = (name) => readFileSync(new URL(name, home), 'utf8')
const pkg = JSON.parse(read('package.json'))

for (const name of ['client', 'transports'])
  test(`${name}.d.ts declares exactly what ${name}.js exports`, async () => {
    const declared = [...read(`${name}.d.ts`).matchAll(/^export (?:function|class|const) (\w+)/gm)].map(
      ([, found]) => found,
    )
    assert.deepEqual(declared.sort(), Object.keys(await import(new URL(`${name}.js`, home))).sort())
  })

test('the modules import nothing but each other', () => {
  for (const name of readdirSync(home).filter((file) => file.endsWith('.js')))
    for (const [, from] of read(name).matchAll(/from '([^']+)'/g))
      assert.ok(from.startsWith('./') && existsSync(new URL(from, home)), `${name}: ${from}`)
})

test('the package has the version of the proxy and ships what it exports', () => {
  assert.match(
    readFileSync(new URL('../version.py', home), 'utf8'),
    new RegExp(`"${pkg.version.replaceAll('.', '\\.')}"`),
  )
  const targets = Object.values(pkg.exports).flatMap(Object.values)
  for (const target of targets) assert.ok(pkg.files.includes(target.slice(2)), target)
  for (const file of pkg.files) assert.ok(existsSync(new URL(file, home)), file)
})
