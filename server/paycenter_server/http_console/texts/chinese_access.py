"""The Chinese texts of operators, of their sign-in, and of the audit."""

from __future__ import annotations

from collections.abc import Mapping

ACCESS: Mapping[str, str] = {
    # Operators
    "Operators": "操作员",
    "Operator": "操作员",
    "API keys of operators": "操作员的 API 密钥",
    "API keys": "API 密钥",
    "New operator": "新增操作员",
    "There is no operator yet.": "还没有操作员。",
    "The operator logs in with it. It never changes.": "操作员用它登录，创建后不能修改。",
    "Role": "角色",
    "Viewer": "查看",
    "reads": "只能查看",
    "Finance": "财务",
    "reads, refunds, decides cases": "查看、退款、处理待处理事项",
    "Developer": "开发",
    "reads, administers apps, accounts, channels and notifications": "查看，管理应用、账户、渠道和通知",
    "Admin": "管理员",
    "everything, also operators and the audit": "全部权限，包括操作员和审计",
    "Limit to these apps": "限定应用",
    "None chosen: all apps.": "不选：全部应用。",
    "The next page shows a one-time password. The operator must change it at the first login.": (
        "下一页显示一次性密码，操作员首次登录时必须修改。"
    ),
    "This one-time password is shown only now. Give it to the operator, who must change it at the first login.": (
        "一次性密码只在此显示一次。请交给操作员，首次登录时必须修改。"
    ),
    "Sign-in": "登录方式",
    "Locked": "已锁定",
    "Locked until": "锁定至",
    "Unlock": "解除锁定",
    "one-time password": "一次性密码",
    "password": "密码",
    "password and code": "密码和验证码",
    "no password": "没有密码",
    "Operator number": "操作员编号",
    "What the operator did": "该操作员的审计记录",
    "Reset the password": "重置密码",
    "The operator gets a one-time password, loses its authenticator, and every session of it ends.": (
        "操作员将得到一次性密码，身份验证器被移除，所有会话结束。"
    ),
    "Type the name to confirm": "输入名称以确认",
    "Enabled: the operator may log in": "启用：操作员可以登录",
    "Disabling ends the sessions and API keys of the operator.": "停用后，该操作员的会话和 API 密钥失效。",
    "Apps it may access": "可访问的应用",
    "From address": "来源地址",
    "Empty: it does not end.": "留空：永不到期。",
    "Sessions": "会话",
    "Browser": "浏览器",
    "Begun": "登录时间",
    "Last use": "最近使用",
    "this one": "当前会话",
    "End": "结束",
    "There is no session now.": "目前没有会话。",
    "There is no API key.": "没有 API 密钥。",
    "Purpose": "用途",
    "Ends": "到期",
    "A key calls the API as its operator, with at most the role and the apps that it is limited to. "
    "Operators make their own under My sign-in.": (
        "密钥以操作员的身份调用接口，权限不超过它限定的角色和应用。操作员在“我的登录”中创建自己的密钥。"
    ),
    "Older keys are on the pages of their operators.": "更早的密钥见各操作员的页面。",
    "The operator can log in again now.": "操作员现在可以重新登录。",
    "The session was ended.": "会话已结束。",
    # The own sign-in
    "My sign-in": "我的登录",
    "Copy these now; no page shows them again. A recovery code replaces one code of the authenticator.": (
        "请立即复制，之后不再显示。一个恢复码可以代替一次身份验证器的验证码。"
    ),
    "Recovery code": "恢复码",
    "Authenticator": "身份验证器",
    "Scan this code with your authenticator, or enter the key. Then confirm with the code that it shows.": (
        "用身份验证器扫描此二维码，或输入密钥，然后用它显示的验证码确认。"
    ),
    "QR code for the authenticator": "身份验证器的二维码",
    "Code": "验证码",
    "Confirm": "确认",
    "In use": "已启用",
    "Not set up": "未设置",
    "A login needs a code of your authenticator.": "登录需要身份验证器的验证码。",
    "With an authenticator, a password alone opens nothing.": "启用身份验证器后，仅有密码无法登录。",
    "Set up": "设置",
    "Set up another one": "更换",
    "Remove the authenticator": "移除身份验证器",
    "The authenticator was removed.": "身份验证器已移除。",
    "My sessions": "我的会话",
    "My API keys": "我的 API 密钥",
    "New API key": "新增 API 密钥",
    # Approvals
    "Approvals": "复核",
    "Approval": "复核编号",
    "Refund": "退款",
    "Change of an account": "账户变更",
    "Another account or other keys of a channel": "渠道更换账户或密钥",
    "Waits for approval": "等待复核",
    "Approved": "已批准",
    "Refused": "已拒绝",
    "Expired": "已过期",
    "Act": "操作",
    "All acts": "全部操作",
    "Requested by": "申请人",
    "Requested": "申请时间",
    "Decided": "处理时间",
    "Nothing waits for a second operator.": "没有等待第二名操作员的操作。",
    "No approval matches.": "没有符合条件的复核。",
    "You have requested this yourself. Another operator approves it; you can take it back.": (
        "这是您自己的申请，需要另一名操作员批准；您可以撤回。"
    ),
    "Your role may not do this act, so it cannot approve it either.": "您的角色不能执行此操作，因此也不能复核。",
    "To refuse needs one.": "拒绝时必填。",
    "Carry this out now?": "确定现在执行吗？",
    "Approve and carry out": "批准并执行",
    "Refuse": "拒绝",
    "Take back": "撤回",
    "This needs a second operator. It waits for 24 hours.": "此操作需要第二名操作员，24 小时内有效。",
    "Approved and carried out.": "已批准并执行。",
    "Refused. Nothing was done.": "已拒绝，没有执行任何操作。",
    "acts that wait for a second operator": "等待第二名操作员的操作",
    "An act waits for a second operator.": "有一项操作等待第二名操作员。",
    "Changes need a second operator: keys, switches, and which account a channel has": (
        "变更需要第二名操作员：密钥、开关，以及渠道使用的账户"
    ),
    "Refunds by operators need a second one from this amount": "操作员退款达到此金额需要第二名操作员",
    "Of all refunds of an order together. Empty: never.": "按同一订单的全部退款合计。留空：不需要。",
    # Export
    "Export": "导出",
    "rows match the filters.": "行符合筛选条件。",
    "rows match among the newest {number}; older ones are exported too.": "行符合条件（仅统计最近的 {number} 行）；更早的也会导出。",
    "The file is sent while it is read, newest rows first. XLSX keeps long numbers as text; in CSV a spreadsheet may round them. "
    "Each export is in the audit.": (
        "文件边读取边下载，最新的在前。XLSX 中的长编号是文本；CSV 用表格软件打开时可能被四舍五入。每次导出都记入审计。"
    ),
    "Currency": "币种",
    "Error": "错误",
    # Columns and views
    "Saved views": "已保存的视图",
    "Delete the view {name}": "删除视图 {name}",
    "Show these columns": "显示这些列",
    "Save this view": "保存为视图",
    "The filters and columns are saved under this name, in place of a view that has it.": "保存当前筛选条件和列；同名视图会被替换。",
    # An order and an app
    "Link to the cashier": "收银台链接",
    "Open the cashier": "打开收银台",
    "Whoever has this link can pay the order until it expires.": "任何人拿到此链接都可以在订单失效前付款。",
    "For single kinds of cases": "按事项类型单独设置",
    "as above": "同上",
    # Audit
    "Audit": "审计",
    "Verify the chain": "校验哈希链",
    "Verify": "校验",
    "Method": "方法",
    "All methods": "全部方法",
    "Number or name": "编号或名称",
    "All results": "全部结果",
    "Time": "时间",
    "Object": "对象",
    "Changes": "变更",
    "Before": "变更前",
    "After": "变更后",
    "Done": "完成",
    "No entry matches.": "没有符合条件的记录。",
    "Credential or session": "凭证或会话",
    "Request id": "请求编号",
    "Hash of the entry before": "上一条记录的哈希",
    "Hash": "哈希",
    "Unchanged": "未被改动",
    "Changed": "更新时间",
    "Tampered with": "已被改动",
    "The hash is that of these values.": "哈希与内容一致。",
    "The hash is not that of these values.": "哈希与内容不一致。",
    "The audit has no entry yet.": "还没有审计记录。",
    "Broken": "已损坏",
    "{rows} entries follow each other, up to number {last}.": "{rows} 条记录前后相接，直到第 {last} 条。",
    "The check began after entry {number}.": "校验从第 {number} 条之后开始。",
    "Keep this anchor outside of the database. A later check can begin there, and then also finds that the entries before it "
    "were replaced.": "请在数据库之外保存这个锚点。以后的校验可以从它开始，并能发现之前的记录是否被整体替换。",
    "Go on after this entry": "从这条记录继续",
    "Begin after the anchor": "从锚点之后开始",
}
