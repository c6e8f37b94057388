/** What is shipped: types that name what the modules export, and a package whose files and version are right. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

const home = new URL('../../../proxy/static/', import.meta.url)
const read = (name) => readFileSync(new URL(name, home), 'utf8')
const pkg = JSON.parse(read('package.json'))

for (const name of ['client', 'chat', 'sdk', 'vercel', 'tanstack'])
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
  const output = execFileSync('npm', ['pack', '--dry-run', '--json'], { cwd: home, encoding: 'utf8' })
  const packed = Object.values(JSON.parse(output))[0].files.map(({ path }) => path)
  const modules = readdirSync(home).filter((file) => /\.(js|ts)$/.test(file))
  assert.deepEqual(packed.sort(), [...modules, 'package.json'].sort())
  for (const target of Object.values(pkg.exports).flatMap(Object.values))
    assert.ok(packed.includes(target.slice(2)), target)
})
